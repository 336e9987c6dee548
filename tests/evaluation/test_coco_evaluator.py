"""COCO metrics with and without scores of masks."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_seesaw.evaluation import MaskScoringCOCOEvaluator
from tests.evaluation.lvis_data import ImageDetections, random_data
from tests.support.ranks import run_on_ranks

TASKS = ["bbox", "segm"]
METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


@pytest.fixture
def case(register, tmp_path):
    """Return a registered COCO dataset, its file, detections, and scores of their masks."""
    data, detections = random_data(seed=50)
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 0
    mapping = {c["id"]: c["id"] - 1 for c in data["categories"]}
    name = register(data, thing_dataset_id_to_contiguous_id=mapping)
    rng = np.random.default_rng(1)
    scores = [np.round(rng.random(len(d.scores)) - 0.2, 1).tolist() for d in detections]
    return name, tmp_path / f"{name}.json", detections, scores


def outputs_of(detections, mask_scores=None):
    """Return image ids and outputs of a model."""
    outputs = [found.as_model_output() for found in detections]
    for output, scores in zip(outputs, mask_scores or [], strict=False):
        output["instances"].mask_scores = torch.tensor(scores, dtype=torch.float32)
    return [(d.image_id, output) for d, output in zip(detections, outputs, strict=True)]


def process(evaluator, outputs):
    evaluator.reset()
    for image_id, output in outputs:
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()


def run(evaluator, detections, mask_scores=None):
    return process(evaluator, outputs_of(detections, mask_scores))


def official(json_file, detections, task):
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(json_file))
        results = ground_truth.loadRes([r for d in detections for r in d.as_lvis(task)])
        evaluation = COCOeval(ground_truth, results, task)
        for step in ("evaluate", "accumulate", "summarize"):
            getattr(evaluation, step)()
    return {m: 100 * s if s >= 0 else math.nan for m, s in zip(METRICS, evaluation.stats)}  # noqa: B905


def scores_of(results, task):
    return {m: results[task][m] for m in METRICS}


def test_each_task_is_ranked_by_its_own_score(case):
    name, json_file, detections, mask_scores = case
    results = run(MaskScoringCOCOEvaluator(name, distributed=False), detections, mask_scores)
    by_mask = [
        ImageDetections(d.image_id, d.category_ids, d.bboxes, s)
        for d, s in zip(detections, mask_scores, strict=True)
    ]
    for task, found in {"bbox": detections, "segm": by_mask}.items():
        expected = official(json_file, found, task)
        assert scores_of(results, task) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    by_box = official(json_file, detections, "segm")
    assert abs(results["segm"]["AP"] - by_box["AP"]) > 0.1


def only_boxes(output):
    output["instances"].remove("pred_masks")


def with_keypoints(output):
    number = len(output["instances"])
    output["instances"].pred_keypoints = torch.rand(number, 5, 3) * 100


def with_proposals(output):
    boxes = output["instances"].pred_boxes
    fields = {"proposal_boxes": boxes, "objectness_logits": torch.randn(len(boxes))}
    output["proposals"] = Instances(output["instances"].image_size, **fields)


def only_proposals(output):
    with_proposals(output)
    del output["instances"]


def without_instances(output):
    del output["instances"]


def no_objects(output):
    output["instances"] = output["instances"][:0]


CHANGES = [
    only_boxes,
    with_keypoints,
    with_proposals,
    only_proposals,
    without_instances,
    no_objects,
]


@pytest.mark.parametrize("change", [lambda output: None, *CHANGES])
def test_without_mask_scores_the_results_match_detectron2(case, tmp_path, change):
    name, _, detections, _ = case
    results = []
    for kind in (MaskScoringCOCOEvaluator, COCOEvaluator):
        torch.manual_seed(0)
        outputs = outputs_of(detections)
        for _, output in outputs:
            change(output)
        folder = str(tmp_path / kind.__name__)
        tasks = ("bbox",) if change is with_keypoints else None  # the annotations have no keypoints
        results.append(process(kind(name, tasks, distributed=False, output_dir=folder), outputs))
    assert repr(results[0]) == repr(results[1])
    written = [files(tmp_path / k.__name__) for k in (MaskScoringCOCOEvaluator, COCOEvaluator)]
    assert written[0] == written[1]


def files(folder):
    """Return the content of each file by its name."""
    found = {}
    for path in folder.glob("*"):
        found[path.name] = path.read_bytes()
        if path.suffix == ".pth":
            found[path.name] = repr(torch.load(path, weights_only=False))
    return found


def test_without_mask_scores_a_second_evaluation_is_the_same(case):
    name, _, detections, _ = case
    evaluator = MaskScoringCOCOEvaluator(name, distributed=False)
    assert repr(run(evaluator, detections)) == repr(evaluator.evaluate())


@pytest.mark.parametrize("tasks", [("bbox",), ("segm",), None])
def test_only_the_given_tasks_are_evaluated_and_repeatedly_the_same(case, tasks):
    name, _, detections, mask_scores = case
    every = run(MaskScoringCOCOEvaluator(name, distributed=False), detections, mask_scores)
    evaluator = MaskScoringCOCOEvaluator(name, tasks, distributed=False)
    first = run(evaluator, detections, mask_scores)
    assert first.keys() == set(tasks or TASKS)
    for results in (first, evaluator.evaluate()):
        for task in tasks or TASKS:
            assert scores_of(results, task) == pytest.approx(scores_of(every, task), nan_ok=True)


def test_files_hold_both_scores_and_those_of_masks_alone(case, tmp_path):
    name, _, detections, mask_scores = case
    folder = tmp_path / "out"
    run(
        MaskScoringCOCOEvaluator(name, distributed=False, output_dir=str(folder)),
        detections,
        mask_scores,
    )
    both, masks = (
        json.loads((folder / f"coco_instances_results{task}.json").read_text())
        for task in ("", "_segm")
    )
    expected = [s for scores in mask_scores for s in scores]
    assert [d["mask_score"] for d in both] == pytest.approx(expected)
    assert [d["score"] for d in both] == pytest.approx([s for d in detections for s in d.scores])
    assert [d["score"] for d in masks] == pytest.approx(expected)
    categories = [c for d in detections for c in d.category_ids]
    assert [d["category_id"] for d in both] == [d["category_id"] for d in masks] == categories
    assert all("bbox" not in d for d in masks)
    for scores, tasks, left in ((mask_scores, ("segm",), "_segm"), (None, ("bbox",), "")):
        evaluator = MaskScoringCOCOEvaluator(name, tasks, distributed=False, output_dir=str(folder))
        run(evaluator, detections, scores)
        found = {path.name for path in folder.glob("coco_instances_results*")}
        assert found == {f"coco_instances_results{left}.json"}


def evaluate_part(folder, mapping, json_file, outputs):
    name = "coco_evaluator_test_ranks"
    MetadataCatalog.get(name).set(json_file=json_file, thing_dataset_id_to_contiguous_id=mapping)
    try:
        evaluator = MaskScoringCOCOEvaluator(name, output_dir=str(folder / "out"))
        part = slice(0, 5) if comm.get_rank() == 0 else slice(5, None)
        return process(evaluator, outputs[part])
    finally:
        MetadataCatalog.remove(name)


@pytest.mark.dist
def test_ranks_give_the_results_and_files_of_one_process(case, tmp_path):
    name, json_file, detections, mask_scores = case
    outputs = outputs_of(detections, mask_scores)
    for _, output in outputs:
        with_proposals(output)
    alone = MaskScoringCOCOEvaluator(name, distributed=False, output_dir=str(tmp_path / "alone"))
    expected = process(alone, outputs)
    mapping = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    arguments = (tmp_path, mapping, str(json_file), outputs)
    found = run_on_ranks(evaluate_part, *arguments, world_size=2)
    assert repr(found[0]) == repr(expected)
    assert found[1] == {}
    assert files(tmp_path / "out") == files(tmp_path / "alone")
