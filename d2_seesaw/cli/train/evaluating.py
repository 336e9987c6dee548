"""Evaluation of the model that a config describes, after training and during it."""

import copy
import logging
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import create_ddp_model
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from d2_seesaw.checkpoint import CALIBRATION, StrictCheckpointer
from d2_seesaw.cli import ending_in_one_line
from d2_seesaw.cli.train.thresholds import write_thresholds_of
from d2_seesaw.data.bad_images import BadImageError, NamingMapper
from d2_seesaw.data.loader import dataset_has_masks
from d2_seesaw.engine import EMAHook, compile_parts
from d2_seesaw.engine.boxes_only import boxes_only, masks_left_out
from d2_seesaw.engine.launch import torch_device
from d2_seesaw.engine.ranks import PROGRESS, Phase
from d2_seesaw.evaluation import drop_absent, print_longtail_results
from d2_seesaw.evaluation.predictions.score_origin import TTA_SUFFIX, ScoreOrigin
from d2_seesaw.inference import apply_calibration, with_roi_masks
from d2_seesaw.inference.class_names import set_class_names, trained_classes
from d2_seesaw.utils.ranks import OtherRankError
from d2_seesaw.utils.signals import leave_signals_to_parent

logger = logging.getLogger("d2_seesaw")

build: Any = instantiate  # returns objects of any type


def evaluate(cfg: DictConfig, model: nn.Module, evaluator: DatasetEvaluator) -> dict[str, Any]:
    """Score ``model`` on the test data.

    Returns:
        On rank 0 the results without the metrics that are n/a; an empty dictionary elsewhere.
    """
    if getattr(evaluator, "takes_roi_masks", False):
        model = with_roi_masks(model)  # avoids pasting masks into whole images
    test = copy.deepcopy(cfg.dataloader.test)
    if "mapper" in test:
        test.mapper = NamingMapper(build(test.mapper))
    loader = build(test)
    if isinstance(loader, DataLoader):
        loader.worker_init_fn = leave_signals_to_parent
    watched = {
        "on_start": lambda: PROGRESS.enter(Phase.INFERENCE),
        "before_inference": PROGRESS.advance,
        "on_end": lambda: PROGRESS.enter(Phase.SCORING),
    }
    results = inference_on_dataset(model, loader, evaluator, callbacks=watched)
    if comm.is_main_process():
        print_longtail_results(results)
    PROGRESS.enter(Phase.BETWEEN)
    return drop_absent(results)


def evaluate_in_training(
    cfg: DictConfig, model: nn.Module, evaluator: DatasetEvaluator, ema: EMAHook | None
) -> dict[str, Any]:
    """Evaluate the trained weights and, if there are any, the averaged ones as ``ema/...``."""
    if ema is None:
        return evaluate(cfg, model, evaluator)
    logger.info("Evaluation of the averaged weights (EMA):")
    of_average = evaluate(cfg, ema.averaged, evaluator)
    # The trained weights come last, so that the files of the evaluator belong to them.
    logger.info("Evaluation of the trained weights:")
    return {**evaluate(cfg, model, evaluator), "ema": of_average}


def build_model(cfg: DictConfig) -> nn.Module:
    """Build the model on its device, wrapped in DDP if there are several ranks."""
    device = torch_device(cfg.train.device)
    model = build(cfg.model).to(device)
    if cfg.train.get("channels_last"):
        model.to(memory_format=torch.channels_last)
    how = cfg.train.compile
    if how.enabled:
        compile_parts(model, how.parts, backend=how.backend, mode=how.mode, dynamic=how.dynamic)
    # DDP takes device ids for GPUs only.
    on_cpu: dict[str, Any] = {"device_ids": None} if device.type == "cpu" else {}
    return create_ddp_model(model, **cfg.train.ddp, **on_cpu)


def evaluate_checkpoint(cfg: DictConfig, *, tta: bool, calibrated: bool = True) -> None:
    """Evaluate the model of ``train.init_checkpoint``.

    Args:
        cfg: the config.
        tta: use test-time augmentation with the views of ``cfg.tta``.
        calibrated: apply the calibration of the checkpoint, if it has one.

    Raises:
        RunError: the evaluation cannot start, memory is exhausted, or an image is bad.
    """
    if tta and cfg.dataloader.evaluator.get("output_dir"):
        cfg.dataloader.evaluator.output_dir += TTA_SUFFIX  # keeps the files of the plain evaluation
    with ending_in_one_line(ValueError, OSError, MemoryError, OtherRankError):
        names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
        if masks_left_out(cfg) or not (names is None or dataset_has_masks(names)):
            boxes_only(cfg)
        evaluator = build(cfg.dataloader.evaluator)
        model = build_model(cfg)
        loaded = StrictCheckpointer(
            model, require_all=True, allow_partial=cfg.train.allow_partial_checkpoint
        ).load(cfg.train.init_checkpoint)
        apply_calibration(model, loaded, cfg.train.init_checkpoint, enabled=calibrated)
        set_class_names(evaluator, trained_classes(cfg, model, loaded), cfg)
        uncalibrated = CALIBRATION in loaded and not calibrated
        origin = ScoreOrigin(cfg.train.init_checkpoint, None, tta, uncalibrated)
        if hasattr(evaluator, "origin") and comm.is_main_process():
            origin = evaluator.origin = origin.recorded()
        if tta:
            cfg.tta.model = model
            model = build(cfg.tta)
    with ending_in_one_line(BadImageError, MemoryError):
        evaluate(cfg, model, evaluator)
    if not uncalibrated:
        write_thresholds_of(evaluator, cfg.train.init_checkpoint, tta=tta, sha256=origin.sha256)
