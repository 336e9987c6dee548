"""Parity with recorded detections and losses of mmdet 3.3.0, from converted weights.

``tests/golden/README.md`` describes how the numbers were recorded. mmdet is not needed here.
"""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_seesaw.checkpoint import convert_mmdet
from d2_seesaw.engine import load_config
from d2_seesaw.modeling.roi_heads.stages import Stage
from tests.checkpoint.mmdet_shapes import mmdet_shapes
from tests.checkpoint.mmdet_weights import mmdet_state, picture

GOLDEN = Path("tests/golden")
C = 37
# Height and width of the network's input, then of the original image.
IMAGES = {"a": (96, 128, 192, 256), "b": (160, 96, 120, 72), "c": (120, 150, 100, 125)}
ARCHITECTURES = {
    "mask_rcnn": "mask_rcnn_r50_fpn",
    "cascade_mask_rcnn": "cascade_mask_rcnn_r101_fpn",
}
NUM_MASKS = 12
# CPUs sum in different orders: differences up to 4e-6 were seen between AVX2 and AVX-512.
SCORE_TOLERANCE = 1e-5
TRAIN_IMAGES = ("d", "e")

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@cache
def golden(name):
    with np.load(GOLDEN / f"mmdet_3_3_0_{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@cache
def converted(name):
    """Return this project's models with plain and normalized mask predictors and equal weights."""
    stages = 3 if "cascade" in name else None
    state = mmdet_state(mmdet_shapes(depth=50, num_classes=C, width=256, stages=stages))
    models = SimpleNamespace()
    for suffix, attribute in (("", "plain"), ("_norm_mask", "norm")):
        cfg = load_config(f"configs/mmdet/{ARCHITECTURES[name]}_seesaw{suffix}.py")
        narrow(cfg.model)
        model = instantiate(cfg.model).eval()
        model.load_state_dict(convert_mmdet(state, model.state_dict()))
        setattr(models, attribute, model)
    return models


def narrow(model):
    """Change a config to the recorded models: R-50, 37 classes, 256 features, 300 proposals."""
    model.backbone.bottom_up.stages.depth = 50
    model.proposal_generator.post_nms_topk = [300, 300]
    heads = model.roi_heads
    heads.num_classes = C
    cascade = "box_heads" in heads
    for head in heads.box_heads if cascade else [heads.box_head]:
        head.fc_dims = [256, 256]
    for predictor in heads.box_predictors if cascade else [heads.box_predictor]:
        predictor.input_shape.channels = 256


def detect(models, image):
    """Return 300 detections in coordinates of the network's input, and the features."""
    height, width, *_ = IMAGES[image]
    images = models.plain.preprocess_image([{"image": picture(f"image {image}", height, width)}])
    features = models.plain.backbone(images.tensor)
    proposals, _ = models.plain.proposal_generator(images, features, None)
    heads = models.plain.roi_heads
    return heads._forward_box(features, proposals)[0], features


def matches(boxes, labels, expected_boxes, expected_labels):
    """Return distance and index of the nearest detection of the same class, per expected one."""
    distance = torch.cdist(expected_boxes.double(), boxes.double(), p=torch.inf)
    distance[expected_labels[:, None] != labels] = torch.inf
    nearest, place = distance.min(dim=1)
    return nearest, place


@every_architecture
@pytest.mark.parametrize(
    "image", [pytest.param(i, marks=[pytest.mark.slow] * (i != "a")) for i in IMAGES]
)
@torch.no_grad()
def test_the_300_detections_match_mmdet(name, image):
    models, recorded = converted(name), golden(name)
    labels, scores, boxes = (
        torch.from_numpy(recorded[f"{image} {what}"]) for what in ("labels", "scores", "boxes")
    )
    height, width = IMAGES[image][2:]
    detections, features = detect(models, image)
    result = detector_postprocess(copied(detections), height, width)
    assert len(result) == len(labels) == 300
    torch.testing.assert_close(result.scores, scores, rtol=0, atol=SCORE_TOLERANCE)
    # Other machines may swap neighbors whose scores differ by less than the tolerance.
    distance, place = matches(result.pred_boxes.tensor, result.pred_classes, boxes, labels)
    assert distance.max() < 1e-3
    assert sorted(place.tolist()) == list(range(300))
    torch.testing.assert_close(result.scores[place], scores, rtol=0, atol=SCORE_TOLERANCE)

    first = detections[place[:NUM_MASKS]]
    for kind, model in vars(models).items():
        (with_masks,) = model.roi_heads.forward_with_given_boxes(features, [copied(first)])
        masks = detector_postprocess(with_masks, height, width).pred_masks
        packed = torch.from_numpy(np.unpackbits(recorded[f"{image} {kind} masks"])).bool()
        expected = packed[: masks.numel()].view_as(masks)
        assert expected.any()
        assert mean_iou(masks, expected) > 0.999


def copied(detections):
    """Copy detections, because Detectron2 rescales their boxes in place."""
    fields = {
        name: value for name, value in detections.get_fields().items() if name != "pred_boxes"
    }
    return Instances(detections.image_size, pred_boxes=detections.pred_boxes.clone(), **fields)


def mean_iou(masks, expected):
    union = (masks | expected).sum(dim=(1, 2))
    return torch.where(union > 0, (masks & expected).sum(dim=(1, 2)) / union, 1.0).mean()


def test_plain_and_normalized_masks_differ():
    recorded = golden("mask_rcnn")
    assert (recorded["a plain masks"] != recorded["a norm masks"]).any()


def sampled_rois(recorded, stage):
    """Return the RoIs that mmdet sampled for ``stage``, per image, with their matches."""
    proposals = []
    for i in range(len(TRAIN_IMAGES)):
        rois = torch.from_numpy(recorded[f"train rois {stage} {i}"])
        matched = torch.from_numpy(recorded[f"train matched {stage} {i}"]).long()
        objects = torch.from_numpy(recorded[f"train objects {i}"])
        classes = torch.from_numpy(recorded[f"train classes {i}"]).long()
        # Positives come first. The rest is background and not matched to an object.
        background = len(rois) - len(matched)
        labels = torch.cat([classes[matched], torch.full((background,), C)])
        matched = torch.cat([matched, torch.zeros(background, dtype=torch.int64)])
        proposals.append(
            Instances(
                (96, 128),
                proposal_boxes=Boxes(rois),
                gt_classes=labels,
                gt_boxes=Boxes(objects[matched]),
                gt_masks=BitMasks(upper_halves(objects)[matched]),
            )
        )
    return proposals


def upper_halves(objects):
    """Return ``(N, 96, 128)`` masks: each recorded object is the upper half of its box."""
    masks = torch.zeros(len(objects), 96, 128, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, objects.int().tolist(), strict=True):
        mask[y0 : (y0 + y1 + 1) // 2, x0:x1] = True
    return masks


@every_architecture
def test_losses_and_counts_of_a_training_step_match_mmdet(name):
    model, recorded = converted(name).plain, golden(name)
    images = model.preprocess_image(
        [{"image": picture(f"image {i}", 96, 128)} for i in TRAIN_IMAGES]
    )
    with torch.no_grad():
        features = model.backbone(images.tensor)
    model.train()
    with EventStorage(0):
        losses, predictors = training_losses(model.roi_heads, features, recorded)
    expected = {
        key.removeprefix("train "): v
        for key, v in recorded.items()
        if ".loss_" in key or "train loss_" in key
    }
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value.item(), rel=0, abs=1e-4), key
    for k, predictor in enumerate(predictors):
        counts = torch.from_numpy(recorded[f"train counts {k}"])
        assert predictor.cls_loss.class_counts.tolist() == counts.tolist()


def training_losses(heads, features, recorded):
    """Return losses under mmdet's names, computed on mmdet's RoIs."""
    renamed = {"loss_box_reg": "loss_bbox"}
    if not hasattr(heads, "num_cascade_stages"):
        proposals = sampled_rois(recorded, 0)
        losses = heads._forward_box(features, proposals) | heads._forward_mask(features, proposals)
        return {renamed.get(n, n): loss for n, loss in losses.items()}, [heads.box_predictor]
    maps = [features[name] for name in heads.box_in_features]
    stages = []
    for k, predictor in enumerate(heads.box_predictor):
        proposals = sampled_rois(recorded, k)
        stages.append(Stage(predictor, heads._run_stage(maps, proposals, k), proposals))
    losses = heads._box_losses(stages) | heads._mask_losses(features, stages, [])
    named = {}
    for full_name, loss in losses.items():
        name, stage = full_name.split("_stage")
        named[f"s{stage}.{renamed.get(name, name)}"] = loss
    return named, heads.box_predictor
