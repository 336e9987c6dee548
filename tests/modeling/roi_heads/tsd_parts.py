"""Small TSD heads with the sizes of ``parts``."""

import torch
from detectron2.layers import ShapeSpec

from d2_seesaw.layers import linear_classifier, normed_linear_classifier
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads import OffsetROIPooler, TSDBoxHead, TSDOutputLayers
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.parts import C


def pooler(output_size=7):
    """Build a pooler that assigns boxes of 32 pixels and more to the second level."""
    return OffsetROIPooler(
        output_size, [1 / 4, 1 / 8], sampling_ratio=2, canonical_box_size=64, canonical_level=4
    )


def box_head(**options):
    shape = ShapeSpec(channels=parts.CHANNELS, height=7, width=7)
    return TSDBoxHead(shape, fc_dims=[parts.WIDTH], offset_dim=12, **options)


def classification(seesaw):
    if seesaw:
        return normed_linear_classifier(), SeesawLoss(C)
    return linear_classifier(std=1.0), SoftmaxLoss(C)


def predictor(stage=0, *, seesaw=False, sibling_seesaw=False, **options):
    cls_score, cls_loss = classification(seesaw)
    sibling_cls_score, sibling_cls_loss = classification(sibling_seesaw)
    defaults = {
        "cls_score": cls_score,
        "cls_loss": cls_loss,
        "sibling_cls_score": sibling_cls_score,
        "sibling_cls_loss": sibling_cls_loss,
        "box2box_transform": parts.transform(stage),
        "pc_cls": not (seesaw or sibling_seesaw),
        "test_score_thresh": 0.1,
    }
    return TSDOutputLayers(ShapeSpec(channels=parts.WIDTH), **defaults | options)


def cascade_options(*, seesaw=False, agnostic=True, predictors=None, **options):
    """Return the arguments of cascade heads with TSD in all three stages."""
    options = {
        "box_pooler": pooler(),
        "box_heads": [box_head() for _ in range(3)],
        "box_predictors": [
            predictor(
                k,
                seesaw=seesaw,
                sibling_seesaw=seesaw,
                cls_agnostic_bbox_reg=agnostic,
                **predictors or {},
            )
            for k in range(3)
        ],
    } | options
    return parts.cascade_options(**options)


def stay_in_place(head):
    """Set all offsets to zero and copy the sibling's weights into both branches."""
    with torch.no_grad():
        for offsets in (head.delta_c, head.delta_r):
            offsets[-1].weight.zero_()
            offsets[-1].bias.zero_()
    for branch in (head.classification, head.localization):
        branch.load_state_dict(head.sibling.state_dict())
