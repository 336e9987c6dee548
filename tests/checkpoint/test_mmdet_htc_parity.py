"""Parity of HTC with recorded detections, losses and gradients of mmdet 3.3.0.

``tests/golden/README.md`` describes how the numbers were recorded. mmdet is not needed here.
"""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_seesaw.checkpoint import convert_mmdet, describe_mmdet
from d2_seesaw.checkpoint.mmdet import rename
from d2_seesaw.engine import load_config
from tests.checkpoint.mmdet_shapes import mmdet_shapes
from tests.checkpoint.mmdet_weights import mmdet_state, picture, uniform
from tests.checkpoint.test_mmdet_parity import (
    GOLDEN,
    IMAGES,
    NUM_MASKS,
    SCORE_TOLERANCE,
    TRAIN_IMAGES,
    C,
    copied,
    golden,
    matches,
    mean_iou,
    upper_halves,
)

PIXEL_CLASSES = 11
MASKS = ("last", "average", "norm")

every_htc = pytest.mark.parametrize(
    "name", ["htc", pytest.param("htc_without_semantic", marks=pytest.mark.slow)]
)


@cache
def weights():
    """Return mmdet's state dict of HTC with the semantic branch."""
    heads = json.loads((GOLDEN / "mmdet_3_3_0_htc_heads.json").read_text())
    shapes = {k: v for k, v in mmdet_shapes(depth=50).items() if not k.startswith("roi_head.")}
    return mmdet_state(shapes | {key: tuple(shape) for key, shape in heads.items()})


def state_of(name):
    return {k: v for k, v in weights().items() if name == "htc" or "semantic" not in k}


@cache
def converted(name):
    """Return the model, and mask heads with equal weights for each way to predict masks."""
    cfg = load_config(f"configs/mmdet/{name}_r50_fpn.py")
    cfg.model.proposal_generator.post_nms_topk = [300, 300]
    heads = cfg.model.roi_heads
    heads.num_classes = C
    if name == "htc":
        heads.semantic_head.num_classes = PIXEL_CLASSES
    for box_head, predictor in zip(heads.box_heads, heads.box_predictors, strict=True):
        box_head.fc_dims = [256, 256]
        predictor.input_shape.channels = 256
        predictor.test_topk_per_image = 300
    model = instantiate(cfg.model).eval()
    state = convert_mmdet(state_of(name), model.state_dict())
    model.load_state_dict(state)
    for head in heads.mask_head:
        head.predictor._target_ = "d2_seesaw.layers.normed_mask_predictor"
    norm = instantiate(cfg.model.roi_heads).eval()
    norm.load_state_dict(
        {k.removeprefix("roi_heads."): v for k, v in state.items() if k.startswith("roi_heads.")}
    )
    return SimpleNamespace(model=model, norm=norm)


@every_htc
@pytest.mark.parametrize(
    "image", [pytest.param(i, marks=[pytest.mark.slow] * (i != "a")) for i in IMAGES]
)
@torch.no_grad()
def test_the_300_detections_match_mmdet(name, image):
    recorded, model = golden(name), converted(name).model
    labels, scores, boxes = (
        torch.from_numpy(recorded[f"{image} {what}"]) for what in ("labels", "scores", "boxes")
    )
    input_height, input_width, height, width = IMAGES[image]
    given = {"image": picture(f"image {image}", input_height, input_width)}
    images = model.preprocess_image([given])
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    (detections,) = model.roi_heads._forward_box(features, proposals)
    result = detector_postprocess(copied(detections), height, width)
    assert len(result) == len(labels) == 300
    torch.testing.assert_close(result.scores, scores, rtol=0, atol=SCORE_TOLERANCE)
    distance, place = matches(result.pred_boxes.tensor, result.pred_classes, boxes, labels)
    assert distance.max() < 1e-3
    assert sorted(place.tolist()) == list(range(300))
    torch.testing.assert_close(result.scores[place], scores, rtol=0, atol=SCORE_TOLERANCE)

    first = detections[place[:NUM_MASKS]]
    for kind in MASKS:
        heads = converted(name).norm if kind == "norm" else model.roi_heads
        heads.mask_head.fusion = "average" if kind == "average" else "last"
        (with_masks,) = heads.forward_with_given_boxes(features, [copied(first)])
        masks = detector_postprocess(with_masks, height, width).pred_masks
        packed = torch.from_numpy(np.unpackbits(recorded[f"{image} {kind} masks"])).bool()
        expected = packed[: masks.numel()].view_as(masks)
        assert expected.any()
        assert mean_iou(masks, expected) > 0.999


@every_htc
def test_recorded_masks_of_the_last_head_differ_from_the_average(name):
    recorded = golden(name)
    assert (recorded["a last masks"] != recorded["a average masks"]).any()
    assert (recorded["a last masks"] != recorded["a norm masks"]).any()


def training_batch(recorded):
    """Return proposals, targets and label maps of the recorded training step."""
    proposals, targets, maps = [], [], []
    for i, image in enumerate(TRAIN_IMAGES):
        boxes = torch.from_numpy(recorded[f"train proposals {i}"])
        proposals.append(
            Instances(
                (96, 128), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes))
            )
        )
        objects = torch.from_numpy(recorded[f"train objects {i}"])
        targets.append(
            Instances(
                (96, 128),
                gt_boxes=Boxes(objects),
                gt_classes=torch.from_numpy(recorded[f"train classes {i}"]).long(),
                gt_masks=BitMasks(upper_halves(objects)),
            )
        )
        labels = torch.from_numpy(uniform(f"labels {image}", (96, 128)) + 1)
        labels = (labels * ((PIXEL_CLASSES + 1) / 2)).floor().long()
        maps.append(labels.where(labels < PIXEL_CLASSES, 255))
    return proposals, targets, maps


@every_htc
@pytest.mark.slow
def test_losses_and_gradients_of_a_training_step_match_mmdet(name):
    """Every stage samples all of its RoIs here, so boxes and masks of all stages must agree."""
    recorded, model = golden(name), converted(name).model
    proposals, targets, maps = training_batch(recorded)
    given = [
        {"image": picture(f"image {i}", 96, 128), "sem_seg": labels}
        for i, labels in zip(TRAIN_IMAGES, maps, strict=True)
    ]
    model.train()
    images = model.preprocess_image(given)
    with torch.no_grad():
        features = model.eval().backbone(images.tensor)
    heads = model.roi_heads.train()
    heads.zero_grad()
    with EventStorage(0):
        _, losses = heads(images, features, proposals, targets)
    sum(losses.values()).backward()
    model.eval()

    theirs = {"loss_semantic": "loss_semantic_seg"}
    for k in range(3):
        theirs |= {
            f"loss_cls_stage{k}": f"s{k}.loss_cls",
            f"loss_box_reg_stage{k}": f"s{k}.loss_bbox",
        }
        theirs[f"loss_mask_stage{k}"] = f"s{k}.loss_mask"
    expected = {k.removeprefix("train "): v.item() for k, v in recorded.items() if "loss_" in k}
    assert {theirs[key] for key in losses} == expected.keys()
    for key, loss in losses.items():
        assert loss.item() == pytest.approx(expected[theirs[key]], rel=1e-4), key

    gradients = {
        rename(key.replace("gradient ", "roi_head.")): v.item()
        for key, v in recorded.items()
        if key.startswith("gradient ")
    }
    ours = {f"roi_heads.{n}": p.grad.norm().item() for n, p in heads.named_parameters()}
    assert ours == pytest.approx(gradients, rel=1e-3, abs=1e-6)


def test_a_checkpoint_of_htc_is_recognized():
    model = describe_mmdet(weights())
    assert (model.htc, model.cascade, model.seesaw, model.num_classes) == (True, True, False, C)
    assert model.semantic_classes == PIXEL_CLASSES
    assert describe_mmdet(state_of("htc_without_semantic")).semantic_classes == 0
