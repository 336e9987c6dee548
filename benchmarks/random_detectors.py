"""Detectors with random weights and random data, for measurements of training and inference.

``stock_mask_rcnn`` and ``stock_cascade`` consist of Detectron2's classes only: the parts of this
project in the configs are replaced.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)
from detectron2.structures import Boxes, Instances, PolygonMasks
from omegaconf import DictConfig
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
LOGIT_STD = 2.5
"""Standard deviation of the logits of a RoI: of 1203 classes the best then has about 0.1."""

build: Any = instantiate


# --- data ---


def random_image(options: argparse.Namespace, num_classes: int = 1203) -> dict[str, Any]:
    """Draw a noise image with octagons as objects, in the format of a dataset mapper."""
    height, width = options.size
    corners = torch.rand(options.objects, 2) * torch.tensor([width * 0.7, height * 0.7])
    extents = 16 + torch.rand(options.objects, 2) * torch.tensor([width, height]) * 0.25
    angles = torch.arange(8) * math.pi / 4
    octagon = 0.5 + 0.5 * torch.stack([angles.cos(), angles.sin()], dim=1)
    polygons: list[list[Tensor | np.ndarray]] = [
        [(corner + extent * octagon).flatten().double().numpy()]
        for corner, extent in zip(corners, extents, strict=True)
    ]
    objects = Instances(
        (height, width),
        gt_boxes=Boxes(torch.cat([corners, corners + extents], dim=1)),
        gt_classes=(num_classes * torch.rand(options.objects) ** 3).long(),
        gt_masks=PolygonMasks(polygons),
    )
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": objects}


class Cycle:
    """Loader that repeats batches endlessly."""

    def __init__(self, batches: list[list[dict[str, Any]]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        while True:
            yield from self.batches


# --- models ---


def model_config(name: str) -> DictConfig:
    """Load the model of a file in ``configs/common/models``."""
    model: Any = LazyConfig.load(str(ROOT / f"configs/common/models/{name}.py"), "model")
    return model


def stock_mask_rcnn() -> GeneralizedRCNN:
    """Build Mask R-CNN R-50 for LVIS v1 from Detectron2's classes."""
    cfg = model_config("mask_rcnn_r50_fpn")
    _use_stock_parts(cfg)
    cfg.roi_heads.box_predictor = _stock_predictor(cfg.roi_heads.box_predictor)
    return _checked(build(cfg))


def stock_cascade() -> GeneralizedRCNN:
    """Build Cascade Mask R-CNN R-50 with one mask head for LVIS v1 from Detectron2's classes."""
    cfg = model_config("cascade_mask_rcnn_r50_fpn")
    _use_stock_parts(cfg)
    heads = cfg.roi_heads
    heads._target_ = CascadeROIHeads
    heads.box_predictors = [_stock_predictor(predictor) for predictor in heads.box_predictors]
    for name in ("score_fusion", "resample", "stage_loss_weights"):
        heads.pop(name)
    return _checked(build(cfg))


def _use_stock_parts(cfg: DictConfig) -> None:
    cfg.proposal_generator.head = L(StandardRPNHead)(in_channels=256, num_anchors=3)
    heads = cfg.roi_heads
    heads.box_pooler._target_ = heads.mask_pooler._target_ = ROIPooler
    heads.mask_head = L(MaskRCNNConvUpsampleHead)(
        input_shape=L(ShapeSpec)(channels=256, width=14, height=14),
        num_classes=heads.num_classes,
        conv_dims=[256, 256, 256, 256, 256],
    )


def _stock_predictor(ours: DictConfig) -> DictConfig:
    kept = ("input_shape", "box2box_transform", "cls_agnostic_bbox_reg", "test_score_thresh")
    kept += ("test_nms_thresh", "test_topk_per_image")
    return L(FastRCNNOutputLayers)(
        num_classes=1203, **{name: ours[name] for name in kept if name in ours}
    )


def _checked(model: GeneralizedRCNN) -> GeneralizedRCNN:
    """Return a model without a part of this project.

    Raises:
        RuntimeError: it has one.
    """
    ours = {
        type(module).__name__
        for module in model.modules()
        if type(module).__module__.startswith("d2_seesaw")
    }
    if ours:
        raise RuntimeError(f"not Detectron2's: {sorted(ours)}")
    return model


@torch.no_grad()
def tame(model: GeneralizedRCNN) -> None:
    """Rescale random weights to keep activations near one: frozen norms do not normalize them."""
    for name, tensor in [*model.backbone.named_buffers(), *model.backbone.named_parameters()]:
        if name.endswith("conv3.norm.weight"):
            tensor.fill_(0.2)


@torch.no_grad()
def give_detections(model: GeneralizedRCNN, image: dict[str, Any], number: int) -> None:
    """Let a model with random weights find a number of objects in an image.

    The classifiers are scaled until their logits have ``LOGIT_STD``. The threshold of the scores is
    halved until that many detections are left after non-maximum suppression, the best of which are
    kept: about as much work as in a trained model.

    Args:
        model: in evaluation mode.
        image: the image.
        number: number of detections.
    """
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]

    def scale(layer: nn.Module, _: Any, logits: Tensor) -> Tensor:
        factor = LOGIT_STD / logits.std(dim=1).mean()
        layer.weight.mul_(factor)  # pyright: ignore[reportCallIssue]
        return logits * factor

    hooks = []
    for predictor in predictors:
        predictor.test_score_thresh = 1.0
        predictor.test_topk_per_image = number
        nn.init.normal_(predictor.cls_score.weight)
        nn.init.normal_(predictor.bbox_pred.weight, std=1e-3)
        nn.init.zeros_(predictor.cls_score.bias)
        hooks.append(predictor.cls_score.register_forward_hook(scale))
    heads: Any = model.roi_heads
    heads.mask_on = False
    while len(model.inference([image], do_postprocess=False)[0]) < number:  # pyright: ignore
        for hook in hooks:
            hook.remove()
        for predictor in predictors:
            predictor.test_score_thresh /= 2
    heads.mask_on = True
