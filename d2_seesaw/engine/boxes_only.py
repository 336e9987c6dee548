"""Training without masks, of a config that has a mask head."""

import logging

from omegaconf import DictConfig, OmegaConf

from d2_seesaw.engine.config import accepted_keywords, target_of

logger = logging.getLogger(__name__)

_HEADS = ("mask_in_features", "mask_pooler", "mask_head")
_MAPPER = {"use_instance_mask": False, "recompute_boxes": False, "instance_augmentation": None}


def masks_left_out(cfg: DictConfig) -> bool:
    """Return whether a config sets the mask head, or what belongs to it, to null."""
    heads = OmegaConf.select(cfg, "model.roi_heads") or {}
    return any(key in heads and heads[key] is None for key in _HEADS)


def boxes_only(cfg: DictConfig) -> DictConfig:
    """Leave out the mask head, the masks of training images and the metrics of masks, in place.

    It also leaves out an augmentation of instances, which needs masks. ``d2-seesaw train`` calls
    this if no annotation of the training data has a mask. A config may call it for other data.
    """
    if OmegaConf.select(cfg, "model.roi_heads") is None:
        return cfg  # no detector
    leave_out_mask_head(cfg)
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
    for key in _MAPPER.keys() & mapper.keys():
        mapper[key] = _MAPPER[key]
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator")
    if evaluator is not None and "tasks" in (accepted_keywords(target_of(evaluator)) or ()):
        OmegaConf.update(cfg, "dataloader.evaluator.tasks", ["bbox"], force_add=True)
    return cfg


def leave_out_mask_head(cfg: DictConfig) -> None:
    """Leave out the mask head of the detector of a config, in place."""
    if not masks_left_out(cfg):
        logger.info("Boxes only: model.roi_heads.mask_head and what belongs to it is left out")
    heads = cfg.model.roi_heads
    for key in _HEADS:
        if key in heads:
            heads[key] = None
