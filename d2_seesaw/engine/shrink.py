"""Small versions of the steps of the winning LVIS 2020 entry, for generated data and a CPU."""

from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, ListConfig

from d2_seesaw.layers import sync_batch_norm

_SIZES = {256: 32, 1024: 64}
_CROP = 144


def shrink(cfg: DictConfig, small: DictConfig) -> DictConfig:
    """Shrink a step of ``configs/challenge`` in place and return it.

    In the backbone and the heads, each 256 becomes 32 and each 1024 becomes 64. Sizes of other
    kinds, the data and the schedule are taken from ``small``. Training starts from random weights;
    a step that needs a trained model has to be given ``train.init_checkpoint``.

    Args:
        cfg: a step of ``configs/challenge``.
        small: a Mask R-CNN for the same generated data: ``configs/quickstart/seesaw.py``.
    """
    model = cfg.model
    _shrink_backbone(model.backbone, small.model.backbone)
    _scale(model.roi_heads)
    _scale(model.proposal_generator.head)
    proposals = ("batch_size_per_image", "pre_nms_topk", "post_nms_topk")
    _take(model.proposal_generator, small.model.proposal_generator, *proposals)
    _take(
        model.proposal_generator.anchor_generator,
        small.model.proposal_generator.anchor_generator,
        "sizes",
    )
    heads, small_heads = model.roi_heads, small.model.roi_heads
    _take(heads, small_heads, "num_classes", "batch_size_per_image", "positive_fraction")
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        _take(predictor, small_heads.box_predictor, "test_score_thresh", "test_topk_per_image")
    _shrink_data(cfg.dataloader, small.dataloader)
    _take(cfg, small, "optimizer", "lr_multiplier")
    lengths = ("epochs", "max_iter", "reference_world_size", "seed", "log_period")
    _take(cfg.train, small.train, *lengths)
    cfg.train.update(init_checkpoint="", output_dir=None)
    _take(cfg.tta, small.tta, "scales")
    return cfg


def _take(node: DictConfig, other: DictConfig, *keys: str) -> None:
    """Copy values from ``other``, keeping interpolations."""
    for key in keys:
        node[key] = other._get_node(key)


def _scale(node: Any) -> None:
    """Replace sizes anywhere below ``node``, without following interpolations."""
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        child: Any = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            if not (child._is_none() or child._is_interpolation()):
                _scale(child)
        elif not child._is_interpolation() and type(child._value()) is int:
            node[key] = _SIZES.get(child._value(), child._value())


def _shrink_backbone(backbone: DictConfig, small: DictConfig) -> None:
    backbone.out_channels = 32
    if "stack" in backbone:
        backbone.stack = 5  # the finest level then has one cell
        backbone.norm = L(sync_batch_norm)()
    else:
        backbone.norm = "BN"
    bottom_up = backbone.bottom_up
    if "stem" not in bottom_up:  # ResNeSt: one narrow block a stage
        bottom_up.update(
            name="resnest14d",
            pretrained=False,
            freeze_at=0,
            model_options={"channels": (16, 32, 64, 128)},
        )
        return
    norm = L(sync_batch_norm)() if bottom_up.stem.norm == "SyncBN" else "BN"
    backbone.bottom_up = small.bottom_up
    backbone.bottom_up.stem.norm = norm
    for stage in backbone.bottom_up.stages:
        stage.norm = norm


def _shrink_data(data: DictConfig, small: DictConfig) -> None:
    data.train.dataset.names = small.train.dataset.names
    data.test = small.test
    data.train.update(total_batch_size=4, num_workers=1)
    mapper = data.train.mapper
    if "instance_augmentation" in mapper:
        resize, crop, _ = mapper.augmentations
        resize.update(target_height=_CROP, target_width=_CROP)
        crop.crop_size = (_CROP, _CROP)
    else:
        mapper.augmentations = small.train.mapper.augmentations
