"""Tests of the config part with mask scoring, applied to models as in a shipped config."""

import pytest
from detectron2.config import LazyConfig, instantiate

from d2_seesaw.engine import check_config
from d2_seesaw.layers import NormedConv2d
from d2_seesaw.modeling.roi_heads import ScoredMaskHead
from tests.support.configs import CONFIGS, changed, meta_device, through_yaml

PART = "configs/common/heads/mask_iou.py"
MODELS = {
    "lvis_v1/mask_rcnn_r50_fpn_softmax_rfs_2x.py": "head",
    "lvis_v1/htc_lite_r50_fpn_softmax_rfs_1x.py": "head",
    "lvis_v1/cascade_mask_rcnn_r50_fpn_softmax_rfs_1x.py": "heads",
}


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("path", "kind"), MODELS.items())
def test_can_be_applied_to_every_model(path, kind, normed):
    cfg = changed(CONFIGS / path)
    name = f"scored_{'norm_' if normed else ''}mask_{kind}"
    cfg.model.roi_heads.mask_head = LazyConfig.load(PART, name)
    cfg.model.roi_heads.num_classes = 37
    check_config(cfg)
    with meta_device():
        heads = instantiate(through_yaml(cfg).model.roi_heads).mask_head
    assert isinstance(heads, ScoredMaskHead) == (kind == "head")
    for head in [heads] if kind == "head" else heads:
        assert isinstance(head, ScoredMaskHead)
        assert isinstance(head.mask_head.predictor, NormedConv2d) == normed
        assert head.mask_head.predictor.out_channels == head.iou_head.num_classes == 37
        assert head.iou_head.convs[0].in_channels == 257
