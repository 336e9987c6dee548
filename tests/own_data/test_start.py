"""Choices for a start from a detector: its outputs and anchors are kept, and reasons are true."""

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from d2_seesaw.own_data.choices import choose, choose_anchors
from d2_seesaw.own_data.heads import choose_outputs
from d2_seesaw.own_data.resizing import Resize
from d2_seesaw.own_data.start import DetectorStart
from tests.own_data.test_choices import CPU, measures

BOXES = "model.roi_heads.box_predictor.cls_agnostic_bbox_reg"
MASKS = "model.roi_heads.mask_head.num_classes"
GENERATOR = "model.proposal_generator.anchor_generator"
NUM_ANCHORS = "model.proposal_generator.head.num_anchors"


def shapes(boxes=4, masks=1, anchors=3, stages=0):
    """Return shapes as of a checkpoint of Detectron2, or of one with a cascade."""
    places = [f".{stage}" for stage in range(stages)] or [""]
    named = {f"roi_heads.box_predictor{p}.bbox_pred.weight": (boxes, 256) for p in places}
    named |= {"roi_heads.mask_head.predictor.weight": (masks, 256, 1, 1)} if masks else {}
    objectness = {"proposal_generator.rpn_head.objectness_logits.weight": (anchors, 64, 1, 1)}
    return {**named, **objectness, "backbone.bottom_up.x": (), "pixel_mean": (3, 1, 1)}


def config(ratios, sizes):
    generator = {"aspect_ratios": ratios, "sizes": sizes}
    return OmegaConf.create({"model": {"proposal_generator": {"anchor_generator": generator}}})


def recipe(start):
    return replace(CPU, weights="model.pth", starts_from_detector=True, start=start)


@pytest.mark.parametrize(
    ("given", "changes", "value", "settings"),
    [
        (shapes(), {}, "the same boxes and masks for all classes", {BOXES: True, MASKS: 1}),
        (shapes(stages=3), {}, "the same boxes and masks for all cl", {BOXES: True, MASKS: 1}),
        (shapes(320, 80), {}, "boxes and masks for each class", {}),
        (shapes(4, 80), {}, "the same boxes for all classes, masks for each class", {BOXES: True}),
        (shapes(), {"has_masks": False}, "the same boxes for all classes", {BOXES: True}),
        (shapes(320, 80), {"has_masks": False}, "boxes for each class", {}),
        (shapes(), {"classes": 1}, "the same boxes and masks", {BOXES: True, MASKS: 1}),
    ],
)
def test_the_outputs_of_a_detector_are_kept(given, changes, value, settings):
    choice = choose_outputs(measures(**changes), recipe(DetectorStart.of(given)))
    assert choice.value.startswith(value)
    assert choice.settings == settings
    assert choice.reason == "as the checkpoint of the detector that training starts from has them"


def test_what_a_checkpoint_does_not_show_is_said():
    unread = choose_outputs(measures(), recipe(None))
    assert unread.settings == {}
    assert unread.value == "boxes and masks for each class"
    assert unread.reason == "boxes and masks as in the base config: model.pth cannot be read here"
    partly = choose_outputs(measures(), recipe(DetectorStart.of(shapes(masks=0))))
    assert partly.settings == {BOXES: True}
    assert "; masks as in the base config: model.pth has none that are known" in partly.reason
    anchors = choose_anchors(measures(), recipe(None), Resize(192, 320))
    assert NUM_ANCHORS not in anchors.settings
    assert "does not show here how many its RPN has, so it keeps 3" in anchors.reason


def test_boxes_alone_are_not_called_masks():
    assert choose_outputs(measures(has_masks=False, classes=1), CPU).value == "boxes for each class"
    many = measures(images=4000, has_masks=False)
    assert choose_outputs(many, CPU).value == "boxes for each class"


def test_a_detector_keeps_the_number_and_the_known_ratios_of_its_anchors():
    ratios, sizes = [0.1, 0.3, 1, 3, 10], [[8], [16], [32], [64], [128]]
    for nested in (ratios, [ratios]):
        start = DetectorStart.of(shapes(anchors=5), config(nested, sizes))
        (choice,) = [c for c in choose(measures(), recipe(start), 9) if c.subject == "anchors"]
        assert choice.settings[f"{GENERATOR}.aspect_ratios"] == ratios
        assert choice.settings[NUM_ANCHORS] == 5
        assert "the ratios are those of the detector" in choice.reason
    # Anchors of the detector that fit as they are keep their sizes, too.
    fitting = measures((192, 192), np.tile([12, 24, 48, 96, 180], 40))
    start = DetectorStart.of(shapes(), config([0.5, 1, 2], [[12], [24], [48], [96], [192]]))
    kept = choose_anchors(fitting, recipe(start), Resize(192, 320)).settings
    assert kept[f"{GENERATOR}.sizes"] == [[12], [24], [48], [96], [192]]
    assert NUM_ANCHORS not in kept


@pytest.mark.parametrize("number", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(
    "cfg",
    [
        None,
        config([0.5, 1, 2, 3], [[8], [16], [32], [64], [128]]),  # of another RPN
        config(None, 3),
        config([0.5, "1", 2], [[8]]),
        config([1.0], [[8, 16, 32]]),
        OmegaConf.create({"model": {}}),
    ],
)
def test_without_a_config_the_number_of_anchors_is_that_of_the_checkpoint(number, cfg):
    start = DetectorStart.of(shapes(anchors=number), cfg)
    assert start.aspect_ratios is None
    choice = choose_anchors(measures(), recipe(start), Resize(192, 320))
    ratios = choice.settings.get(f"{GENERATOR}.aspect_ratios", CPU.anchors.aspect_ratios)
    assert len(ratios) == number
    assert choice.settings.get(NUM_ANCHORS, 3) == number
    assert f"has {number} of each size, and no config.yaml beside it" in choice.reason
