"""The training run that a config describes: data, model, optimizer and hooks."""

import copy
import functools
import itertools
import logging
import math
import os
from dataclasses import dataclass
from typing import Any

from detectron2.engine import default_writers, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2_seesaw.checkpoint import (
    CALIBRATION,
    StrictCheckpointer,
    choose_checkpoint,
    class_metadata,
    normalized_layers,
)
from d2_seesaw.cli import ending_in_one_line
from d2_seesaw.cli.train.evaluating import build, build_model, evaluate_in_training
from d2_seesaw.cli.train.output import WritersHook, disk_errors_in_one_line, save_config
from d2_seesaw.cli.train.thresholds import ThresholdsHook
from d2_seesaw.data.bad_images import BadImageError
from d2_seesaw.data.loader import check_test_files
from d2_seesaw.engine import (
    BestCheckpoint,
    CheckpointHook,
    EarlyStopping,
    EMAHook,
    Trainer,
    tracking_writers,
)
from d2_seesaw.engine.boxes_only import boxes_only, masks_left_out
from d2_seesaw.engine.launch import torch_device
from d2_seesaw.engine.monitoring.metric import UnknownMetricError
from d2_seesaw.engine.rank_state import RankState
from d2_seesaw.engine.run_records import EvaluationHook, ResumedMetricsFile
from d2_seesaw.engine.stop import StopHook, signals_waiting, stop_requested
from d2_seesaw.engine.trackers import plain_value
from d2_seesaw.inference.class_names import (
    check_initial_classes,
    class_transfer,
    set_class_names,
)
from d2_seesaw.utils.files import digest
from d2_seesaw.utils.ranks import OtherRankError, raise_on_all_ranks, shared_seed

logger = logging.getLogger("d2_seesaw")

_IN_ONE_LINE = (BadImageError, UnknownMetricError, OtherRankError)


def train(cfg: DictConfig, *, resume: bool) -> None:
    """Train to the end; with ``resume``, from the newest checkpoint that can be read.

    Raises:
        RunError: training cannot start, memory is exhausted, too many images are bad, files cannot
            be written, or the metric of ``train.best_checkpoint`` or ``train.early_stopping`` does
            not exist.
    """
    with ending_in_one_line(ValueError, OSError, MemoryError, OtherRankError):
        trainer, start = build_trainer(cfg, resume=resume)
    # Detectron2 logs a traceback of every error.
    of_loop = logging.getLogger("detectron2.engine.train_loop")
    of_loop.addFilter(_is_crash)
    with (
        ending_in_one_line(*_IN_ONE_LINE, MemoryError),
        disk_errors_in_one_line(cfg.train.output_dir),
        signals_waiting(),
    ):
        trainer.train(start, cfg.train.max_iter)


def _is_crash(record: logging.LogRecord) -> bool:
    """Return whether Detectron2's traceback of an error tells more than our message."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not (stop_requested() or isinstance(error, _IN_ONE_LINE))


@dataclass(frozen=True)
class TrainingRun:
    """Parts of a training.

    Attributes:
        trainer: has all hooks and the weights.
        start: first iteration.
        evaluator: evaluator of the test data.
        checkpoints: hook that saves checkpoints.
        ema: hook that averages the weights, if they are averaged.
    """

    trainer: Trainer
    start: int
    evaluator: DatasetEvaluator
    checkpoints: CheckpointHook
    ema: EMAHook | None


def build_trainer(cfg: DictConfig, *, resume: bool) -> tuple[Trainer, int]:
    """Build the trainer with its hooks, load the weights and return it with its first iteration."""
    run = build_run(cfg, resume=resume)
    return run.trainer, run.start


def build_run(cfg: DictConfig, *, resume: bool, writes: bool = True) -> TrainingRun:
    """Build the trainer with its hooks and load the weights.

    Args:
        cfg: the config.
        resume: continue from the newest checkpoint that can be read.
        writes: save the config, and open the files of metrics and the trackers.
    """
    early = _early_stopping(cfg)
    seed = _settle_seed(cfg)
    loader = build(cfg.dataloader.train)
    loader.bad_images.limit = cfg.train.max_bad_images
    if cfg.train.prefetch_to_device:
        loader.prefetch_device = torch_device(cfg.train.device)
    if not loader.has_masks or masks_left_out(cfg):
        boxes_only(cfg)
    # Built early: an evaluator that cannot run fails before the training, not after it.
    evaluator = build(cfg.dataloader.evaluator)
    _check_test_data(cfg)
    _settle_length(cfg, loader.images_per_epoch, loader.total_batch_size)
    saved_config = copy.deepcopy(cfg)
    model = build_model(cfg)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = build(cfg.optimizer)
    trainer = Trainer(model, loader, optimizer, seed=seed, **_arithmetic(cfg))
    metadata = _metadata(cfg, model)
    set_class_names(evaluator, metadata, cfg)
    ema = _average(cfg, model, metadata)
    rank_state = RankState(model=model, ema=ema and ema.averaged)
    checkpointer = StrictCheckpointer(
        model,
        cfg.train.output_dir,
        allow_partial=cfg.train.allow_partial_checkpoint,
        metadata=metadata,
        trainer=trainer,
        rank_state=rank_state,
    )
    checkpoints = CheckpointHook(
        checkpointer,
        eval_period=cfg.train.eval_period,
        before_save=[rank_state.gather],
        **cfg.train.checkpointer,
    )
    schedule = hooks.LRScheduler(scheduler=build(cfg.lr_multiplier))
    stop = StopHook(checkpoints)
    trainer.register_hooks([hooks.IterationTimer(), ema, schedule, checkpoints, stop])
    evaluate = functools.partial(evaluate_in_training, cfg, model, evaluator, ema)
    evaluation = EvaluationHook(
        cfg.train.eval_period, stop.interruptible(evaluate), cfg.train.output_dir, _test_of(cfg)
    )
    best = _best_checkpoint(cfg, checkpointer)
    if early is not None:
        early.at_end = [hook.save_final for hook in (ema, checkpoints) if hook is not None]
    thresholds = ThresholdsHook(evaluator, best, cfg.train.output_dir)
    trainer.register_hooks_after_checkpoint([evaluation, best, thresholds, early])
    start = trainer.iter + 1 if load_checkpoint(cfg, checkpointer, resume=resume) else 0
    _warn_of_seed(cfg, trainer)
    # Only now: writers create files and runs, which a failed start must not.
    if comm.is_main_process() and writes:
        save_config(saved_config, os.path.join(cfg.train.output_dir, "config.yaml"))
        writer = WritersHook(_writers(cfg, trainer, start), period=cfg.train.log_period)
        trainer.register_hooks_after_checkpoint([writer])
    return TrainingRun(trainer, start, evaluator, checkpoints, ema)


def _test_of(cfg: DictConfig) -> str:
    """Return text that identifies what an evaluation depends on beside the weights."""
    data, evaluator = (
        plain_value(OmegaConf.to_container(part, resolve=False))
        for part in (cfg.dataloader.test, cfg.dataloader.evaluator)
    )
    for part, key in ((data, "num_workers"), (evaluator, "output_dir"), (evaluator, "report")):
        part.pop(key, None)
    return digest([data, evaluator])


def _check_test_data(cfg: DictConfig) -> None:
    names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
    with raise_on_all_ranks():
        if names is not None and comm.is_main_process():
            check_test_files(names)


def _settle_seed(cfg: DictConfig) -> int:
    """Return ``train.seed``. If it is negative, draw one, share it and seed all generators."""
    if cfg.train.seed >= 0:
        return cfg.train.seed
    seed = shared_seed()
    logger.info("train.seed=%d: seed %d was drawn", cfg.train.seed, seed)
    seed_all_rng(seed + comm.get_rank())
    return seed


def _warn_of_seed(cfg: DictConfig, trainer: Trainer) -> None:
    if trainer.seed != cfg.train.seed >= 0:
        logger.warning(
            "train.seed=%d has no effect: training continues with seed %d of the checkpoint",
            *(cfg.train.seed, trainer.seed),
        )


def _arithmetic(cfg: DictConfig) -> dict[str, Any]:
    """Return precision, accumulation and clipping as arguments of the trainer."""
    return {
        "amp_dtype": cfg.train.amp.dtype if cfg.train.amp.enabled else None,
        "accumulate_steps": cfg.train.accumulate_steps,
        **cfg.train.clip_grad,
    }


def _average(cfg: DictConfig, model: nn.Module, metadata: dict[str, Any]) -> EMAHook | None:
    if not cfg.train.ema.enabled:
        return None
    options = {"decay": cfg.train.ema.decay, "warmup": cfg.train.ema.warmup}
    return EMAHook(model, cfg.train.output_dir, metadata=metadata, **options)


def load_checkpoint(cfg: DictConfig, checkpointer: StrictCheckpointer, *, resume: bool) -> str:
    """Resume from the newest checkpoint and return its path, or load the initial weights."""
    path = choose_checkpoint(checkpointer) if resume else ""
    if path:
        optimizer = checkpointer.checkpointables["trainer"].optimizer
        given = [_optimizer_options(group) for group in optimizer.param_groups]
        loaded = checkpointer.resume(path)
        _warn_of_optimizer(given, [_optimizer_options(group) for group in optimizer.param_groups])
    else:
        if resume:
            logger.info("No checkpoint in %s: training starts at 0", cfg.train.output_dir)
            check_checkpoint_file(cfg.train.init_checkpoint)
        checkpointer.class_transfer = class_transfer(cfg, checkpointer.metadata.get("class_names"))
        loaded = checkpointer.load(cfg.train.init_checkpoint, checkpointables=[])
        if CALIBRATION in loaded:
            logger.info("The calibration of %s is not trained with", cfg.train.init_checkpoint)
    origin = path or cfg.train.init_checkpoint
    if path or checkpointer.class_transfer is None:
        check_initial_classes(loaded, checkpointer.metadata, origin, resumed=bool(path))
    return path


def _optimizer_options(group: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a group of parameters, with the learning rate before scheduling."""
    options = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
    return options | {"lr": group.get("initial_lr", group["lr"])}


def _warn_of_optimizer(given: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """Name the options of the config that a resumed optimizer does not take."""
    changed = {
        f"{key}={value}: {old.get(key)} of the checkpoint"
        for new, old in zip(given, saved, strict=True)
        for key, value in new.items()
        if value != old.get(key)
    }
    if changed:
        logger.warning(
            "--resume restores the optimizer, so these options have no effect: %s",
            "; ".join(sorted(changed)),
        )


def check_start(cfg: DictConfig, *, eval_only: bool) -> None:
    """Refuse an initial checkpoint that does not exist, or options of its classes that are wrong.

    Raises:
        FileNotFoundError, ValueError: as :func:`check_checkpoint_file` and ``class_transfer``.
    """
    check_checkpoint_file(cfg.train.init_checkpoint)
    if not eval_only:
        class_transfer(cfg, ())


def check_checkpoint_file(path: str | None) -> None:
    """Refuse an initial checkpoint that does not exist, or is no file.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is a folder.
    """
    if path and "://" not in path and not os.path.isfile(path):
        if os.path.isdir(path):
            raise ValueError(f"train.init_checkpoint {path!r} is a folder, expected a file")
        raise FileNotFoundError(f"train.init_checkpoint {path!r} does not exist")


def _best_checkpoint(cfg: DictConfig, checkpointer: StrictCheckpointer) -> BestCheckpoint | None:
    options = cfg.train.best_checkpoint
    if options.metric is None:
        return None
    return BestCheckpoint(checkpointer, **options, eval_period=cfg.train.eval_period)


def _early_stopping(cfg: DictConfig) -> EarlyStopping | None:
    options = cfg.train.get("early_stopping")
    if options is None or options.metric is None:
        return None
    return EarlyStopping(**options, eval_period=cfg.train.eval_period)


def _metadata(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Return the metadata to save in checkpoints. The dataset must have been loaded."""
    names = OmegaConf.select(cfg, "dataloader.train.dataset.names")
    return {} if names is None else class_metadata(names, model) | normalized_layers(model)


def _writers(cfg: DictConfig, trainer: Trainer, start: int) -> list[EventWriter]:
    """Return Detectron2's writers and the trackers.

    Args:
        cfg: the config.
        trainer: has loaded its checkpoint.
        start: first iteration; more than 0 if a checkpoint is resumed.
    """
    output_dir = cfg.train.output_dir
    if start == 0:
        _set_aside(os.path.join(output_dir, "metrics.json"))
        writers = default_writers(output_dir, cfg.train.max_iter)
    else:
        first_written = start - trainer.finishes_step  # again, if it is there already
        metrics = ResumedMetricsFile(os.path.join(output_dir, "metrics.json"), first_written)
        curves = TensorboardXWriter(output_dir, purge_step=first_written)
        curves._last_write = metrics.last_written
        writers = [CommonMetricPrinter(cfg.train.max_iter), metrics, curves]
    return [*writers, *tracking_writers(cfg, resume=start > 0)]


def _set_aside(path: str) -> None:
    """Give a new name to the records of a run that ended before its first checkpoint."""
    if os.path.exists(path):
        names = (f"{path}.{number}" for number in itertools.count(1))
        os.rename(path, next(name for name in names if not os.path.lexists(name)))


def _settle_length(cfg: DictConfig, images_per_epoch: float, total_batch_size: int) -> None:
    """Compute ``train.max_iter`` from ``train.epochs``."""
    if cfg.train.max_iter is None:
        images = images_per_epoch / (total_batch_size * cfg.train.accumulate_steps)
        cfg.train.max_iter = math.ceil(cfg.train.epochs * images)
        logger.info(
            "%g epochs of %.0f images, %d x %d a step: %d steps",
            cfg.train.epochs,
            images_per_epoch,
            total_batch_size,
            cfg.train.accumulate_steps,
            cfg.train.max_iter,
        )
