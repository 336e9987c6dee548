import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_seesaw.evaluation import MaskScoringCOCOEvaluator
from tests.evaluation.lvis_data import ImageDetections, random_data

TASKS = ["bbox", "segm"]
METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


@pytest.fixture
def case(register, tmp_path):
    """A registered COCO dataset, its file, detections in its images, and scores of their masks."""
    data, detections = random_data(seed=50)
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 0
    mapping = {c["id"]: c["id"] - 1 for c in data["categories"]}
    name = register(data, thing_dataset_id_to_contiguous_id=mapping)
    rng = np.random.default_rng(1)
    scores = [np.round(rng.random(len(d.scores)) - 0.2, 1).tolist() for d in detections]
    return name, tmp_path / f"{name}.json", detections, scores


def run(evaluator, detections, mask_scores=None):
    evaluator.reset()
    for i, found in enumerate(detections):
        output = found.as_model_output()
        if mask_scores:
            output["instances"].mask_scores = torch.tensor(mask_scores[i], dtype=torch.float32)
        evaluator.process([{"image_id": found.image_id}], [output])
    return evaluator.evaluate()


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


def test_without_mask_scores_it_is_detectron2s(case, tmp_path):
    name, _, detections, _ = case
    evaluators = {
        folder: kind(name, distributed=False, output_dir=str(tmp_path / folder))
        for folder, kind in {"ours": MaskScoringCOCOEvaluator, "host": COCOEvaluator}.items()
    }
    ours, host = (run(evaluator, detections) for evaluator in evaluators.values())
    assert ours.keys() == host.keys() == set(TASKS)
    for task in TASKS:
        assert ours[task] == pytest.approx(host[task], nan_ok=True)
    files = [sorted(p.name for p in (tmp_path / folder).iterdir()) for folder in evaluators]
    assert files[0] == files[1]


@pytest.mark.parametrize("tasks", [("bbox",), ("segm",), None])
def test_only_the_tasks_asked_for_are_evaluated_and_again_the_same(case, tasks):
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
