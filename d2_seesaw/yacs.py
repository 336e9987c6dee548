"""Heads by name, for projects that use Detectron2's CfgNode (yacs).

    import d2_seesaw.yacs

    cfg = get_cfg()
    d2_seesaw.yacs.add_seesaw_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "SeesawROIHeads"

Importing this module registers ``SeesawROIHeads``, ``SeesawCascadeROIHeads`` and
``SeesawHTCLiteROIHeads`` as ROI heads, ``SeesawMaskHead`` as a mask head and ``FederatedRCNN`` as a
meta-architecture, once. They only read a config and call the classes of :mod:`d2_seesaw.modeling`,
where everything is documented.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    FastRCNNOutputLayers,
    StandardROIHeads,
)
from fvcore.common.registry import Registry

from d2_seesaw.layers import (
    LayerFactory,
    linear_classifier,
    mask_predictor,
    normed_linear_classifier,
    normed_mask_predictor,
)
from d2_seesaw.losses import ClassificationLoss, SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling import (
    FederatedRCNN,
    GlobalContextEncoder,
    HTCLiteROIHeads,
    LossDrivenCascadeROIHeads,
    LossDrivenOutputLayers,
    MaskHeadWithPredictor,
)

LOSSES = ("seesaw", "softmax")


def add_seesaw_config(cfg: CfgNode) -> None:
    """Add the keys of this package to a config, with defaults. Keys that exist keep their values.

    - ``MODEL.ROI_BOX_HEAD.CLS_LOSS``: ``"seesaw"`` or ``"softmax"``.
    - ``MODEL.ROI_BOX_HEAD.SEESAW``: ``P``, ``Q``, ``EPS``, ``LOSS_WEIGHT``, ``SYNC``.
    - ``MODEL.ROI_BOX_HEAD.NORMED_CLS``: ``ENABLED``, ``TEMPERATURE`` of the normalized classifier.
    - ``MODEL.ROI_MASK_HEAD.NORMED_PREDICTOR``: the same for the last layer of ``SeesawMaskHead``.
    - ``MODEL.ROI_BOX_CASCADE_HEAD``: ``SCORE_FUSION``, ``RESAMPLE``, ``STAGE_LOSS_WEIGHTS`` (empty
      for Detectron2's scheme), ``MASK_HEADS`` (1, or one per stage), ``MASK_ROIS``.
    - ``MODEL.CONTEXT``: the arguments of ``GlobalContextEncoder``, for ``SeesawHTCLiteROIHeads``.
    """
    box = cfg.MODEL.ROI_BOX_HEAD
    _set_defaults(box, {"CLS_LOSS": "seesaw"})
    _set_defaults(
        box, {"SEESAW": {"P": 0.8, "Q": 2.0, "EPS": 1e-2, "LOSS_WEIGHT": 1.0, "SYNC": True}}
    )
    _set_defaults(box, {"NORMED_CLS": {"ENABLED": True, "TEMPERATURE": 20.0}})
    _set_defaults(
        cfg.MODEL.ROI_MASK_HEAD, {"NORMED_PREDICTOR": {"ENABLED": False, "TEMPERATURE": 20.0}}
    )
    _set_defaults(
        cfg.MODEL.ROI_BOX_CASCADE_HEAD,
        {
            "SCORE_FUSION": "logits",
            "RESAMPLE": False,
            "STAGE_LOSS_WEIGHTS": [],
            "MASK_HEADS": 1,
            "MASK_ROIS": "first",
        },
    )
    _set_defaults(
        cfg.MODEL,
        {
            "CONTEXT": {
                "IN_FEATURE": "p6",
                "NUM_CONVS": 4,
                "RESIDUAL": False,
                "LOSS_WEIGHT": 3.0,
                "FEDERATED": False,
                "MASKED_MEAN": False,
                "MASK_ROIS": "last",
            }
        },
    )


def _set_defaults(node: CfgNode, defaults: dict[str, Any]) -> None:
    for key, value in defaults.items():
        if key not in node:
            node[key] = CfgNode(value) if isinstance(value, dict) else value


def _classification_loss(cfg: CfgNode) -> ClassificationLoss:
    name, num_classes = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    seesaw = cfg.MODEL.ROI_BOX_HEAD.SEESAW
    if name == "softmax":
        return SoftmaxLoss(num_classes)
    if name == "seesaw":
        return SeesawLoss(
            num_classes,
            p=seesaw.P,
            q=seesaw.Q,
            eps=seesaw.EPS,
            loss_weight=seesaw.LOSS_WEIGHT,
            sync=seesaw.SYNC,
        )
    raise ValueError(f"MODEL.ROI_BOX_HEAD.CLS_LOSS must be one of {LOSSES}, got {name!r}")


def build_box_predictor(
    cfg: CfgNode, input_shape: ShapeSpec, **replaced: Any
) -> LossDrivenOutputLayers:
    """Build the box predictor that ``cfg`` describes.

    Args:
        cfg: a config with the keys of :func:`add_seesaw_config`.
        input_shape: shape of the feature of one RoI.
        replaced: arguments of ``FastRCNNOutputLayers`` that replace those from ``cfg``.

    Raises:
        ValueError: an unknown loss, or flags for sigmoid or federated losses.
    """
    normed = cfg.MODEL.ROI_BOX_HEAD.NORMED_CLS
    classifier: LayerFactory = (
        normed_linear_classifier(temperature=normed.TEMPERATURE)
        if normed.ENABLED
        else linear_classifier()
    )
    options: dict[str, Any] = FastRCNNOutputLayers.from_config(cfg, input_shape)
    return LossDrivenOutputLayers(
        **(options | replaced), cls_score=classifier, cls_loss=_classification_loss(cfg)
    )


class SeesawROIHeads(StandardROIHeads):
    """Detectron2's standard ROI heads with :class:`LossDrivenOutputLayers`."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        options = super()._init_box_head(cfg, input_shape)
        options["box_predictor"] = build_box_predictor(cfg, options["box_head"].output_shape)
        return options


class SeesawCascadeROIHeads(LossDrivenCascadeROIHeads):
    """:class:`LossDrivenCascadeROIHeads` from a config."""

    @configurable
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "score_fusion": cascade.SCORE_FUSION,
            "resample": cascade.RESAMPLE,
            "stage_loss_weights": list(cascade.STAGE_LOSS_WEIGHTS) or None,
            "mask_rois": cascade.MASK_ROIS,
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        options = super()._init_box_head(cfg, input_shape)
        weights = cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
        options["box_predictors"] = [
            build_box_predictor(cfg, head.output_shape, box2box_transform=Box2BoxTransform(w))
            for head, w in zip(options["box_heads"], weights, strict=True)
        ]
        return options

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        build = super()._init_mask_head
        options, count = build(cfg, input_shape), cfg.MODEL.ROI_BOX_CASCADE_HEAD.MASK_HEADS
        if options and count > 1:
            others = [build(cfg, input_shape)["mask_head"] for _ in range(count - 1)]
            options["mask_head"] = [options["mask_head"], *others]
        return options


class SeesawHTCLiteROIHeads(SeesawCascadeROIHeads, HTCLiteROIHeads):
    """:class:`HTCLiteROIHeads` from a config."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        context = cfg.MODEL.CONTEXT
        feature: Any = input_shape.get(context.IN_FEATURE)
        if feature is None:
            raise ValueError(
                f"MODEL.CONTEXT.IN_FEATURE {context.IN_FEATURE!r} is not one of the backbone's "
                f"features {sorted(input_shape)}"
            )
        encoder = GlobalContextEncoder(
            cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            channels=feature.channels,
            in_feature=context.IN_FEATURE,
            num_convs=context.NUM_CONVS,
            residual=context.RESIDUAL,
            loss_weight=context.LOSS_WEIGHT,
            federated=context.FEDERATED,
            masked_mean=context.MASKED_MEAN,
            stride=feature.stride,
        )
        options = super().from_config(cfg, input_shape)
        return {**options, "context_encoder": encoder, "mask_rois": context.MASK_ROIS}


class SeesawMaskHead(MaskHeadWithPredictor):
    """:class:`MaskHeadWithPredictor` from a config."""

    @configurable
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        normed = cfg.MODEL.ROI_MASK_HEAD.NORMED_PREDICTOR
        predictor = (
            normed_mask_predictor(temperature=normed.TEMPERATURE)
            if normed.ENABLED
            else mask_predictor()
        )
        return {**super().from_config(cfg, input_shape), "predictor": predictor}


def _register(registry: Registry, *classes: type) -> None:
    for cls in classes:
        if cls.__name__ not in registry:
            registry.register(cls)


_register(ROI_HEADS_REGISTRY, SeesawROIHeads, SeesawCascadeROIHeads, SeesawHTCLiteROIHeads)
_register(ROI_MASK_HEAD_REGISTRY, SeesawMaskHead)
_register(META_ARCH_REGISTRY, FederatedRCNN)
