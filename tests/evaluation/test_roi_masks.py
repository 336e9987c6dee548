"""Evaluation of models that return masks on their boxes."""

import copy
import functools
import json

import pytest
import torch
from detectron2.evaluation import COCOEvaluator, LVISEvaluator
from detectron2.structures import Boxes, Instances, ROIMasks

from d2_seesaw.evaluation import LongTailLVISEvaluator, MaskScoringCOCOEvaluator
from tests.evaluation.lvis_data import add_object, dataset, written_files

SIZE = (67, 93)


def on_boxes(n=6):
    """Return the output of a model with masks on boxes, and with the same masks pasted."""
    H, W = SIZE
    edges = torch.tensor([W, H, W, H])
    boxes = torch.rand(n, 4).sort(1).values * edges
    found = Instances(SIZE)
    found.pred_boxes = Boxes(boxes)
    found.scores = torch.rand(n)
    found.pred_classes = torch.arange(n) % 3
    pasted = copy.deepcopy(found)
    masks = torch.rand(n, 28, 28)
    found.pred_masks = ROIMasks(masks)
    pasted.pred_masks = found.pred_masks.to_bitmasks(pasted.pred_boxes, *SIZE).tensor
    return {"instances": found}, {"instances": pasted}


@pytest.fixture
def lvis_or_coco(register):
    data = dataset("rcf", image_ids=(1, 2, 3))
    for image in data["images"]:
        image["height"], image["width"] = SIZE
        for category in (1, 2, 3):
            add_object(data, image["id"], category, [5, 5, 40, 30], iscrowd=0)
    return register(data, thing_dataset_id_to_contiguous_id={i: i - 1 for i in (1, 2, 3)})


ON_DEVICE = functools.partial(LongTailLVISEvaluator, encode_on_device=True)


@pytest.mark.parametrize("kind", [LongTailLVISEvaluator, ON_DEVICE, MaskScoringCOCOEvaluator])
@pytest.mark.parametrize("mask_scores", [False, True])
def test_files_equal_those_of_pasted_masks(kind, mask_scores, lvis_or_coco, tmp_path):
    images = [on_boxes(6), on_boxes(0), on_boxes(3)]
    if mask_scores:
        for one, other in images:
            scores = torch.rand(len(one["instances"]))
            one["instances"].mask_scores = other["instances"].mask_scores = scores
    results = []
    for name, outputs in zip(("boxes", "pasted"), zip(*images, strict=True), strict=True):
        folder = tmp_path / name
        evaluator = kind(lvis_or_coco, distributed=False, output_dir=str(folder))
        evaluator.reset()
        evaluator.process([{"image_id": 1}, {"image_id": 2}], list(outputs[:2]))
        evaluator.process([{"image_id": 3}], [outputs[2]])
        results.append(evaluator.evaluate())
    assert all(isinstance(one["instances"].pred_masks, ROIMasks) for one, _ in images)
    assert repr(results[0]) == repr(results[1])
    assert results[0].keys() == {"bbox", "segm"}
    assert written_files(tmp_path / "boxes") == written_files(tmp_path / "pasted")
    if kind is not MaskScoringCOCOEvaluator:
        saved = json.loads((tmp_path / "boxes" / "lvis_instances_results.json").read_text())
    else:
        images = torch.load(tmp_path / "boxes" / "instances_predictions.pth", weights_only=True)
        saved = [d for image in images for d in image["instances"]]
    assert [d["image_id"] for d in saved] == [1] * 6 + [3] * 3
    assert all("segmentation" in d for d in saved)


@pytest.mark.parametrize("kind", [COCOEvaluator, LVISEvaluator])
def test_only_our_evaluators_take_masks_on_boxes(kind):
    assert not hasattr(kind, "takes_roi_masks")
    assert LongTailLVISEvaluator.takes_roi_masks
    assert MaskScoringCOCOEvaluator.takes_roi_masks
