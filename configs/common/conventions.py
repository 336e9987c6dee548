"""Training as in mmdet, whose AP is published for these models, or as in Detectron2.

The models in ``common/models/`` train as in Detectron2. One line of a config switches them:

    from ..common.conventions import train_as_mmdet as _train_as_mmdet

    _train_as_mmdet(model, dataloader)

The configs in ``lvis_v1/`` do so, HTC and HTC-Lite included. To return to Detectron2, use
``train_as_detectron2`` in the same way, as ``lvis_v1_seesaw_detectron2.py`` does. Both set:

- backbone: train scale and shift of the batch norms after the first stage (mmdet), or freeze them;
- RPN: match anchors with objects and leave out anchors as in ``ValidAnchorRPN`` and
  ``MaxIoUMatcher`` (mmdet), or as in ``RPN`` and ``Matcher``;
- RoIs: match appended objects to themselves, and the best proposals of objects to these (mmdet);
- box regression: limit the change of size in both directions (mmdet) or in one;
- initialization of FPN, box heads and mask predictors; in cascades, that of whole mask heads;
- data: resize by OpenCV, rasterize polygons before they are resized, and pad these masks with the
  images (mmdet), or use Pillow and keep polygons.

``start_from_model_zoo`` is for training that starts from a model of Detectron2's model zoo.

What both have in common is in the models and in ``common/optim.py`` and ``common/schedule.py``.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from omegaconf import OmegaConf

from d2_seesaw.data import (
    BitMaskDatasetMapper,
    InstanceDatasetMapper,
    OpenCVResizeShortestEdge,
)
from d2_seesaw.layers import (
    frozen_statistics_batch_norm,
    kaiming_mask_predictor,
    mask_predictor,
)
from d2_seesaw.modeling import (
    GlorotBoxHead,
    GlorotFPN,
    HTCROIHeads,
    MaskHeadWithPredictor,
    MaxIoUMatcher,
    PaddedMaskRCNN,
    TorchInitializedMaskHead,
    TwoSidedBox2BoxTransform,
    ValidAnchorRPN,
)


def train_as_mmdet(model, dataloader):
    """Change the parts of a model, and of its training data, to those of mmdet."""
    cascade = "box_heads" in model.roi_heads
    matches_low_quality = not cascade or model.roi_heads._target_ is HTCROIHeads
    model._target_ = PaddedMaskRCNN
    backbone, rpn = model.backbone, model.proposal_generator
    backbone._target_ = GlorotFPN
    backbone.bottom_up.stem.norm = L(frozen_statistics_batch_norm)()
    backbone.bottom_up.stages.norm = L(frozen_statistics_batch_norm)()
    rpn._target_ = ValidAnchorRPN
    rpn.anchor_boundary_thresh = 0 if cascade else -1
    rpn.anchor_matcher = L(MaxIoUMatcher)(
        thresholds=[0.3, 0.7], labels=[0, -1, 1], low_quality_floor=0.3
    )
    for matchers, key, iou in _roi_matchers(model.roi_heads):
        matchers[key] = L(MaxIoUMatcher)(
            thresholds=[iou],
            labels=[0, 1],
            low_quality_floor=iou if matches_low_quality else None,
            objects_appended=True,
        )
    _set_parts(
        model,
        TwoSidedBox2BoxTransform,
        GlorotBoxHead,
        kaiming_mask_predictor,
        TorchInitializedMaskHead,
    )
    dataloader.train.mapper._target_ = BitMaskDatasetMapper
    _resize(dataloader, OpenCVResizeShortestEdge)


def train_as_detectron2(model, dataloader):
    """Change the parts of a model, and of its training data, to those of Detectron2."""
    model._target_ = GeneralizedRCNN
    backbone, rpn = model.backbone, model.proposal_generator
    backbone._target_ = FPN
    backbone.bottom_up.stem.norm = "FrozenBN"
    backbone.bottom_up.stages.norm = "FrozenBN"
    rpn._target_ = RPN
    rpn.anchor_boundary_thresh = -1
    rpn.anchor_matcher = L(Matcher)(
        thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
    )
    for matchers, key, iou in _roi_matchers(model.roi_heads):
        matchers[key] = L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
    _set_parts(model, Box2BoxTransform, FastRCNNConvFCHead, mask_predictor, MaskHeadWithPredictor)
    dataloader.train.mapper._target_ = InstanceDatasetMapper
    _resize(dataloader, T.ResizeShortestEdge, sample_style="choice")


def start_from_model_zoo(model, *, stride_in_1x1=True):
    """Give a ResNet the input and the strides of the R-50 and R-101 of Detectron2's model zoo.

    These take BGR images minus their mean, without division, and have the stride of a block in its
    first convolution. Detectron2's baselines from scratch ("new baselines") have the same input,
    but stride_in_1x1=False. Use it after ``train_as_detectron2``.
    """
    model.input_format = "BGR"
    model.pixel_mean = [103.53, 116.28, 123.675]
    model.pixel_std = [1.0, 1.0, 1.0]
    model.backbone.bottom_up.stages.stride_in_1x1 = stride_in_1x1


def _roi_matchers(heads):
    if "box_heads" in heads:
        matchers = heads.proposal_matchers
        return [(matchers, k, iou) for k, iou in enumerate((0.5, 0.6, 0.7))]
    return [(heads, "proposal_matcher", 0.5)]


def _set_parts(model, box2box_transform, box_head, mask_predictor, mask_head_of_stage):
    heads = model.roi_heads
    model.proposal_generator.box2box_transform._target_ = box2box_transform
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.box2box_transform._target_ = box2box_transform
    for head in heads.get("box_heads") or [heads.box_head]:
        head._target_ = box_head
    if OmegaConf.is_list(heads.mask_head):
        for head in heads.mask_head:
            head._target_ = mask_head_of_stage
    elif "temperature" not in heads.mask_head.predictor:  # a normalized one starts so in any case
        heads.mask_head.predictor._target_ = mask_predictor


def _resize(dataloader, transform, **options):
    for mapper in (dataloader.train.mapper, dataloader.test.mapper):
        given = mapper.augmentations[0]
        mapper.augmentations[0] = L(transform)(
            short_edge_length=given.short_edge_length, max_size=given.max_size, **options
        )
