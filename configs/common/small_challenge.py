"""How a step of configs/challenge becomes small enough for the generated data and a CPU.

Of backbone and heads every 256 becomes 32 and every 1024 becomes 64; what has no such sizes, and
data and schedule, are the quickstart's.
"""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, ListConfig

from d2_seesaw.layers import sync_batch_norm

from ..quickstart import dataloader as _dataloader
from ..quickstart import lr_multiplier, optimizer
from ..quickstart import model as _model
from ..quickstart import train as _train
from ..quickstart import tta as _tta

_SIZES = {256: 32, 1024: 64}


def shrink(dataloader, model, train, tta):
    """Change the parts of a step in place."""
    _shrink_backbone(model.backbone)
    _scale(model.roi_heads)
    _scale(model.proposal_generator.head)
    for key in ("batch_size_per_image", "pre_nms_topk", "post_nms_topk"):
        model.proposal_generator[key] = _model.proposal_generator[key]
    model.proposal_generator.anchor_generator.sizes = (
        _model.proposal_generator.anchor_generator.sizes
    )
    for key in ("num_classes", "batch_size_per_image", "positive_fraction"):
        model.roi_heads[key] = _model.roi_heads[key]
    for predictor in model.roi_heads.get("box_predictors") or [model.roi_heads.box_predictor]:
        for key in ("test_score_thresh", "test_topk_per_image"):
            predictor[key] = _model.roi_heads.box_predictor[key]
    _shrink_data(dataloader)
    train.output_dir = train.output_dir.replace("challenge", "challenge_small")
    # The dual head starts from the step before it; everything else from scratch.
    before = str(train.init_checkpoint)
    is_step = before.startswith("output/challenge/")
    train.init_checkpoint = before.replace("challenge", "challenge_small") if is_step else ""
    for key in ("epochs", "max_iter", "reference_world_size", "seed", "log_period"):
        train[key] = _train[key]
    tta.scales = _tta.scales


def _scale(node):
    """Replace sizes anywhere below ``node``, without following interpolations."""
    keys = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        child = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            if not (child._is_none() or child._is_interpolation()):
                _scale(child)
        elif not child._is_interpolation() and type(child._value()) is int:
            node[key] = _SIZES.get(child._value(), child._value())


def _shrink_backbone(backbone):
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
            model_options=dict(channels=(16, 32, 64, 128)),
        )
        return
    norm = "BN" if bottom_up.stem.norm == "FrozenBN" else L(sync_batch_norm)()
    backbone.bottom_up = _model.backbone.bottom_up
    backbone.bottom_up.stem.norm = norm
    for stage in backbone.bottom_up.stages:
        stage.norm = norm


def _shrink_data(dataloader):
    dataloader.train.dataset.names = _dataloader.train.dataset.names
    dataloader.test = _dataloader.test
    dataloader.train.total_batch_size = 4
    dataloader.train.num_workers = 1
    mapper = dataloader.train.mapper
    if "instance_augmentation" in mapper:
        resize, crop, _ = mapper.augmentations
        resize.update(target_height=144, target_width=144)
        crop.crop_size = (144, 144)
    else:
        mapper.augmentations = _dataloader.train.mapper.augmentations
