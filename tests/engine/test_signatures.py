import pytest
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import nn

from d2_seesaw.engine.config import accepted_keywords, target_of
from d2_seesaw.modeling.roi_heads import LossDrivenOutputLayers


def test_a_constructor_that_passes_options_on_takes_those_of_its_bases():
    known = accepted_keywords(LossDrivenOutputLayers)
    assert {"cls_loss", "cls_score", "test_score_thresh", "cls_agnostic_bbox_reg"} <= known
    assert "self" not in known
    assert {"mask_head", "batch_size_per_image"} <= accepted_keywords(StandardROIHeads)


def test_a_function_that_takes_any_keyword_is_not_judged():
    def anything(a, **rest):
        return a, rest

    assert accepted_keywords(anything) is None


def test_positional_only_arguments_are_no_keywords():
    def function(a, /, b, *, c):
        return a, b, c

    assert accepted_keywords(function) == {"b", "c"}


def test_targets_are_found_by_name():
    assert target_of({"_target_": "torch.nn.Linear"}) is nn.Linear
    with pytest.raises(ValueError, match=r"'torch.nn.Lineer' cannot be imported"):
        target_of({"_target_": "torch.nn.Lineer"})
