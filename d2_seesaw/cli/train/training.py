"""The training run that a config describes: data, model, optimizer and hooks."""

import logging
import math
import os
from typing import Any

from detectron2.config import LazyConfig
from detectron2.engine import default_writers, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer, class_metadata
from d2_seesaw.cli import ending_in_one_line
from d2_seesaw.cli.train.evaluating import build, build_model, evaluate_in_training
from d2_seesaw.data.bad_images import BadImageError
from d2_seesaw.data.loader import check_test_files
from d2_seesaw.engine import EMAHook, Trainer, tracking_writers
from d2_seesaw.engine.boxes_only import boxes_only, masks_left_out
from d2_seesaw.engine.stop import StopHook, signals_waiting, stop_requested
from d2_seesaw.inference.class_names import check_initial_classes, set_class_names
from d2_seesaw.utils.ranks import OtherRankError, raise_on_all_ranks

logger = logging.getLogger("d2_seesaw")


def train(cfg: DictConfig, *, resume: bool) -> None:
    """Train to the end; with ``resume``, from the last checkpoint of the output folder.

    Raises:
        RunError: training cannot start, memory is exhausted, or too many images are bad.
    """
    with ending_in_one_line(ValueError, OSError, MemoryError, OtherRankError):
        trainer, start = build_trainer(cfg, resume=resume)
    # Detectron2 logs a traceback of every error.
    of_loop = logging.getLogger("detectron2.engine.train_loop")
    of_loop.addFilter(_is_crash)
    with ending_in_one_line(BadImageError, MemoryError), signals_waiting():
        trainer.train(start, cfg.train.max_iter)


def _is_crash(record: logging.LogRecord) -> bool:
    """Return whether Detectron2's traceback of an error tells more than our message."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not (stop_requested() or isinstance(error, BadImageError))


def build_trainer(cfg: DictConfig, *, resume: bool) -> tuple[Trainer, int]:
    """Build the trainer with its hooks, load the weights and return it with its first iteration."""
    loader = build(cfg.dataloader.train)
    loader.bad_images.limit = cfg.train.max_bad_images
    if not loader.has_masks or masks_left_out(cfg):
        boxes_only(cfg)
    # Built early: an evaluator that cannot run fails before the training, not after it.
    evaluator = build(cfg.dataloader.evaluator)
    _check_test_data(cfg)
    _settle_length(cfg, loader.images_per_epoch, loader.total_batch_size)
    model = build_model(cfg)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = build(cfg.optimizer)
    trainer = Trainer(
        model,
        loader,
        optimizer,
        amp_dtype=cfg.train.amp.dtype if cfg.train.amp.enabled else None,
        accumulate_steps=cfg.train.accumulate_steps,
        **cfg.train.clip_grad,
    )
    metadata = _metadata(cfg, model)
    set_class_names(evaluator, metadata, cfg)
    checkpointer = StrictCheckpointer(
        model,
        cfg.train.output_dir,
        allow_partial=cfg.train.allow_partial_checkpoint,
        metadata=metadata,
        trainer=trainer,
    )
    ema = None
    if cfg.train.ema.enabled:
        average = {"decay": cfg.train.ema.decay, "warmup": cfg.train.ema.warmup}
        ema = EMAHook(model, cfg.train.output_dir, metadata=metadata, **average)
    resumes = resume and checkpointer.has_checkpoint()
    is_main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            ema,
            hooks.LRScheduler(scheduler=build(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
            stop := StopHook(_Checkpoints(trainer, checkpointer)),
            hooks.EvalHook(
                cfg.train.eval_period,
                stop.interruptible(lambda: evaluate_in_training(cfg, model, evaluator, ema)),
            ),
        ]
    )
    checkpointer.require_all = resumes
    resumed_from = checkpointer.get_checkpoint_file() if resumes else ""
    loaded = checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    origin = resumed_from or cfg.train.init_checkpoint
    check_initial_classes(loaded, metadata, origin, resumed=resumes)
    start = trainer.iter + 1 if resumes else 0
    if is_main:  # only now: writers create files and runs, which a failed start should not
        writers = _writers(cfg, resumed_from, start)
        trainer.register_hooks([hooks.PeriodicWriter(writers, period=cfg.train.log_period)])
    return trainer, start


def _check_test_data(cfg: DictConfig) -> None:
    names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
    with raise_on_all_ranks():
        if names is not None and comm.is_main_process():
            check_test_files(names)


class _Checkpoints:
    """Checkpoints on demand."""

    def __init__(self, trainer: Trainer, checkpointer: StrictCheckpointer) -> None:
        self.trainer = trainer
        self.checkpointer = checkpointer

    def save_now(self, *, gather: bool = True) -> str:
        """Save the state after the last complete step, unless it has been saved."""
        iteration = min(self.trainer.iter, self.trainer.max_iter - 1)
        if iteration < self.trainer.start_iter:
            return ""
        name = f"model_{iteration:07d}"
        last = os.path.basename(self.checkpointer.get_checkpoint_file())
        if comm.is_main_process() and last not in (f"{name}.pth", "model_final.pth"):
            self.checkpointer.save(name, iteration=iteration)
        return self.checkpointer.get_checkpoint_file()


def _metadata(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Return the class names to save in checkpoints. The dataset must have been loaded."""
    names = OmegaConf.select(cfg, "dataloader.train.dataset.names")
    return {} if names is None else class_metadata(names, model)


def _writers(cfg: DictConfig, resumed_from: str, start: int) -> list[EventWriter]:
    """Return Detectron2's writers and the trackers.

    Args:
        cfg: the config.
        resumed_from: checkpoint that is resumed, empty for a new training.
        start: first iteration.
    """
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    if resumed_from:
        # TensorBoard then hides what was written after the checkpoint, which is trained again. The
        # final metrics of a finished training belong to its last checkpoint and stay.
        first_again = start + resumed_from.endswith("model_final.pth")
        writers = [w for w in writers if not isinstance(w, TensorboardXWriter)]
        writers.append(TensorboardXWriter(cfg.train.output_dir, purge_step=first_again))
    return [*writers, *tracking_writers(cfg, resume=bool(resumed_from))]


def _settle_length(cfg: DictConfig, images_per_epoch: float, total_batch_size: int) -> None:
    """Compute ``train.max_iter`` from ``train.epochs`` and save the config with it."""
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
    if comm.is_main_process():
        LazyConfig.save(cfg, os.path.join(cfg.train.output_dir, "config.yaml"))
