"""The LVIS evaluator with a model whose masks have their own scores."""

import json
import math

import numpy as np
import pytest
import torch

from d2_seesaw.evaluation import LongTailLVISEvaluator
from d2_seesaw.evaluation.lvis.rules import METRICS
from tests.evaluation.lvis_data import (
    ImageDetections,
    add_object,
    dataset,
    official_evaluation,
    official_metrics,
    random_data,
)


def with_mask_scores(detections, mask_scores):
    """Return the output of a model with a mask IoU head for each image."""
    outputs = []
    for found, scores in zip(detections, mask_scores, strict=True):
        output = found.as_model_output()
        output["instances"].mask_scores = torch.tensor(scores, dtype=torch.float32)
        outputs.append(output)
    return outputs


def ranked_by(detections, mask_scores):
    """Replace the scores of boxes by the scores of masks."""
    return [
        ImageDetections(d.image_id, d.category_ids, d.bboxes, scores)
        for d, scores in zip(detections, mask_scores, strict=True)
    ]


def random_scores(detections):
    rng = np.random.default_rng(0)
    return [np.round(rng.random(len(d.scores)) - 0.2, 1).tolist() for d in detections]


def run(evaluator, detections, outputs, per_call=1):
    evaluator.reset()
    for i in range(0, len(outputs), per_call):
        images = [{"image_id": d.image_id} for d in detections[i : i + per_call]]
        evaluator.process(images, outputs[i : i + per_call])
    return evaluator.evaluate()


@pytest.mark.parametrize("limit", [300, 4])
def test_each_task_is_ranked_and_limited_by_its_own_score(limit, register, tmp_path, monkeypatch):
    data, detections = random_data(seed=40)
    mask_scores = random_scores(detections)
    name = register(data)
    evaluator = LongTailLVISEvaluator(name, distributed=False, max_dets_per_image=limit)
    outputs = with_mask_scores(detections, mask_scores)
    results = run(evaluator, detections, outputs, per_call=3)
    expected = {"bbox": detections, "segm": ranked_by(detections, mask_scores)}
    for task, found in expected.items():
        official = official_evaluation(
            tmp_path / f"{name}.json", found, task, monkeypatch, max_dets=limit
        )
        ours = {m: results[task][m] for m in METRICS}
        assert ours == pytest.approx(official_metrics(official, METRICS), abs=1e-9, nan_ok=True)


def test_boxes_score_the_same_to_the_bit_with_and_without_mask_scores(register, tmp_path):
    data, detections = random_data(seed=41)
    name = register(data)
    tables = {}
    plain = [d.as_model_output() for d in detections]
    scored = with_mask_scores(detections, random_scores(detections))
    for kind, outputs in {"plain": plain, "scored": scored}.items():
        folder = tmp_path / kind
        evaluator = LongTailLVISEvaluator(
            name, distributed=False, output_dir=str(folder), max_dets_per_image=4
        )
        results = run(evaluator, detections, outputs)
        box = {k: None if math.isnan(v) else v for k, v in results["bbox"].items()}
        tables[kind] = (box, (folder / "per_category_bbox.json").read_text())
        tables[f"{kind} masks"] = results["segm"]["AP"]
    assert tables["plain"] == tables["scored"]
    assert tables["plain masks"] != tables["scored masks"]


def test_the_limit_per_image_may_keep_different_masks_than_boxes(register):
    data = dataset("f")
    add_object(data, 1, 1, [0, 40, 35, 35])
    found = ImageDetections(1).add(1, [100, 100, 20, 20], 0.9).add(1, [0, 40, 35, 35], 0.5)
    evaluator = LongTailLVISEvaluator(register(data), distributed=False, max_dets_per_image=1)
    results = run(evaluator, [found], with_mask_scores([found], [[0.1, 0.4]]))
    assert results["bbox"]["AP"] == 0
    assert results["segm"]["AP"] == pytest.approx(100)


def test_files_hold_both_scores_and_those_of_masks_alone(register, tmp_path):
    data = dataset("ff")
    add_object(data, 1, 1, [0, 40, 35, 35])
    found = ImageDetections(1).add(1, [0, 40, 35, 35], 0.5).add(2, [0, 0, 9, 9], 0.25)
    evaluator = LongTailLVISEvaluator(
        register(data), distributed=False, output_dir=str(tmp_path / "out")
    )
    run(evaluator, [found], with_mask_scores([found], [[0.125, -0.5]]))
    both, masks = (
        json.loads((tmp_path / "out" / f"lvis_instances_results{task}.json").read_text())
        for task in ("", "_segm")
    )
    assert [(d["score"], d["mask_score"]) for d in both] == [(0.5, 0.125), (0.25, -0.5)]
    assert [(d["score"], d["category_id"]) for d in masks] == [(0.125, 1), (-0.5, 2)]
    standard = {"image_id", "category_id", "score", "segmentation"}
    assert all(d.keys() == standard for d in masks)
    with np.load(tmp_path / "out" / "instances_predictions.npz") as saved:
        assert saved["mask_scores"].tolist() == [0.125, -0.5]
    scored = {path.name for path in (tmp_path / "out").iterdir()}
    run(evaluator, [found], [found.as_model_output()])  # a model without scores of masks
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == scored - {"lvis_instances_results_segm.json"}
