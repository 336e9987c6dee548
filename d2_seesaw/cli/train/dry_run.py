"""``d2-seesaw train --dry-run``: every part of a training once, and a forecast of the whole.

It trains a few steps, evaluates some images, saves a checkpoint and resumes it. All files go to a
temporary folder beside the output folder, so that the disk is the same one.
"""

import argparse
import contextlib
import errno
import logging
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from omegaconf import DictConfig

from d2_seesaw.cli import RunError, say
from d2_seesaw.cli.train.evaluating import build, evaluate_in_training
from d2_seesaw.cli.train.forecast import Forecast, Measured, Plan
from d2_seesaw.cli.train.memory import (
    free_disk,
    free_memory,
    memory_of_children,
    peak_memory,
    seconds_since_start,
)
from d2_seesaw.cli.train.samples import TestImages, largest_batch
from d2_seesaw.cli.train.timing import (
    MOST,
    WARM_UP,
    DryRunBatches,
    EvaluationTimer,
    StepTimer,
)
from d2_seesaw.cli.train.training import TrainingRun, build_run, load_checkpoint
from d2_seesaw.engine import CheckpointHook, StopHook
from d2_seesaw.engine.launch import torch_device

_QUIET = ("detectron2.engine.train_loop",)  # logs a traceback of every error


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="try a few steps, an evaluation of some images, a checkpoint and its resumption in a "
        "temporary folder; print a forecast of time, memory and disk",
    )


def check_flags(args: argparse.Namespace) -> None:
    """Check the other flags.

    Raises:
        ValueError: a flag that cannot be combined, or torchrun.
    """
    if not args.dry_run:
        return
    for flag in ("resume", "eval_only"):
        if getattr(args, flag):
            raise ValueError(
                f"--dry-run tries a new training; leave out --{flag.replace('_', '-')}"
            )
    if args.num_machines > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError("--dry-run needs one machine and --num-gpus instead of torchrun")


@contextlib.contextmanager
def temporary_folder(cfg: DictConfig, args: argparse.Namespace) -> Iterator[None]:
    """Make a temporary folder for a dry run, and remove it when the block ends.

    It is beside the output folder, or in the first folder above it that exists.

    Raises:
        OSError: it cannot be written.
    """
    if not args.dry_run:
        yield
        return
    args.dry_run_for = cfg.train.output_dir
    parent = None if "://" in args.dry_run_for else _existing_parent(args.dry_run_for)
    try:
        if os.path.isdir(args.dry_run_for) and not os.access(args.dry_run_for, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
        folder = tempfile.TemporaryDirectory(
            prefix=".dry_run_", dir=parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise OSError(
            f"train.output_dir {args.dry_run_for!r} cannot be written: {error.strerror}"
        ) from error
    loops = [logging.getLogger(name) for name in _QUIET]
    disabled = logging.root.manager.disable
    with folder as args.dry_run_folder:
        try:
            redirect(cfg, args)
            yield
        finally:
            logging.disable(disabled)
            for loop in loops:
                loop.disabled = False


def _existing_parent(folder: str) -> str:
    parent = os.path.dirname(os.path.abspath(folder))
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    return parent


def redirect(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Let a rank of a dry run write to the temporary folder, and log only warnings."""
    if not args.dry_run:
        return
    cfg.train.output_dir = args.dry_run_folder
    for tracker in ("wandb", "mlflow"):
        if tracker in cfg.train:
            cfg.train[tracker].enabled = False
    results = cfg.dataloader.evaluator.get("output_dir")
    if results and not results.startswith(args.dry_run_folder):
        cfg.dataloader.evaluator.output_dir = os.path.join(args.dry_run_folder, "inference")
    logging.disable(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).disabled = True


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Turn any error into one line that names the phase.

    Raises:
        RunError: the block failed.
    """
    try:
        yield
    except Exception as error:
        raise RunError(f"the dry run failed in {name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return an error in one line, with its place in the code if it is an unexpected one."""
    kind = type(error).__name__
    # The text of an error in a loading process is its traceback.
    text = " ".join(str(error).rpartition(f"{kind}: ")[2].split())
    if isinstance(error, OSError | MemoryError | FloatingPointError | RunError) or (
        isinstance(error, ValueError) and text
    ):
        return text or kind
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{kind}: {text} ({last.filename}, line {last.lineno})"


def run(
    cfg: DictConfig,
    args: argparse.Namespace,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Try every part of a training on this rank; the main process prints the forecast.

    Args:
        cfg: the config, with the temporary folder as its output folder.
        args: arguments of the command.
        clock: returns seconds.

    Raises:
        RunError: a part failed; one line names the phase.
    """
    device = torch_device(cfg.train.device)
    measured = Measured()
    with phase("loading"):
        parts = build_run(cfg, resume=False, writes=False)
        measured.start = seconds_since_start()
        loader: Any = parts.trainer.data_loader
        batch = largest_batch(loader.dataset, loader.total_batch_size // comm.get_world_size())
        test = TestImages(
            build(cfg.dataloader.test.dataset),
            comm.get_world_size(),
            cfg.dataloader.test.get("batch_size", 1),
        )
    try:
        _train(cfg, parts, batch, measured, clock)
        _save(cfg, parts, measured, clock)
        results = _evaluate(cfg, parts, test, measured, clock)
        measured.memory = peak_memory(device)
        measured.memory_free = free_memory(device)
        if "://" not in args.dry_run_for:
            measured.disk_free = free_disk(cfg.train.output_dir)
        _reload(cfg, parts, clock)
    finally:
        loader.close()
    if comm.is_main_process():
        forecast = Forecast(_plan(cfg, test), measured, on_gpu=device.type == "cuda")
        _print(cfg, args, forecast, results, batch)


def _train(
    cfg: DictConfig,
    run: TrainingRun,
    batch: list[dict[str, Any]],
    measured: Measured,
    clock: Callable[[], float],
) -> None:
    trainer, loader = run.trainer, run.trainer.data_loader
    with phase("a training step"):
        trainer.data_loader = DryRunBatches(loader, batch, trainer.accumulate_steps)
        skipped = (CheckpointHook, StopHook)
        trainer._hooks = [
            hook
            for hook in trainer._hooks
            if hook not in trainer._after_checkpoint and not isinstance(hook, skipped)
        ]
        trainer._after_checkpoint = []
        most = min(WARM_UP + MOST, max(1, cfg.train.max_iter - 1))
        timer = StepTimer(clock, most)
        trainer.register_hooks([timer])
        trainer.train(0, most + 1)
        measured.steps = timer.steps
        measured.workers = memory_of_children()
    with phase("loading"):
        if workers := loader.batches.num_workers:
            began = clock()
            for sample in next(iter(loader.order)):
                loader.dataset[sample]
            measured.loading = (clock() - began) * trainer.accumulate_steps / workers


def _save(
    cfg: DictConfig, run: TrainingRun, measured: Measured, clock: Callable[[], float]
) -> None:
    with phase("saving a checkpoint"):
        began = clock()
        run.checkpoints.save_final(run.trainer.iter - 1)
        measured.save = clock() - began
        if run.ema is not None:
            run.ema.save_final()
        if comm.is_main_process() and "://" not in cfg.train.output_dir:
            sizes = {
                name: os.path.getsize(os.path.join(cfg.train.output_dir, name))
                for name in os.listdir(cfg.train.output_dir)
            }
            measured.checkpoint = sizes["model_final.pth"]
            measured.average = sizes.get("model_final_ema.pth", 0)


def _evaluate(
    cfg: DictConfig,
    run: TrainingRun,
    test: TestImages,
    measured: Measured,
    clock: Callable[[], float],
) -> dict[str, float]:
    with phase("the evaluation"):
        cfg.dataloader.test.dataset = test
        timer = EvaluationTimer(run.evaluator, clock)
        began = clock()
        results = evaluate_in_training(cfg, run.trainer.model, run.evaluator, run.ema)
        measured.image, measured.scoring = timer.result(clock() - began, test.timed)
        return flatten_results_dict(results or {})


def _reload(cfg: DictConfig, run: TrainingRun, clock: Callable[[], float]) -> None:
    with phase("reloading the checkpoint"):
        trainer = run.trainer
        steps = trainer.iter
        load_checkpoint(cfg, run.checkpoints.checkpointer, resume=True)
        if trainer.iter + 1 != steps:
            raise ValueError(f"it has {trainer.iter + 1} steps instead of {steps}")
        if steps < cfg.train.max_iter:
            trainer.train(steps, steps + 1)


def _plan(cfg: DictConfig, test: TestImages) -> Plan:
    train = cfg.train
    return Plan(
        steps=train.max_iter,
        eval_period=train.eval_period,
        period=train.checkpointer.period,
        max_to_keep=train.checkpointer.get("max_to_keep"),
        keeps_best=train.best_checkpoint.metric is not None,
        ranks=comm.get_world_size(),
        test_images=test.total,
    )


def _print(
    cfg: DictConfig,
    args: argparse.Namespace,
    forecast: Forecast,
    results: dict[str, float],
    batch: list[dict[str, Any]],
) -> None:
    """Print the forecast and the warnings."""
    height, width = (max(sample["image"].shape[i] for sample in batch) for i in (-2, -1))
    say(f"The dry run of {args.config_file} is complete. Forecast of its training:")
    for line in forecast.lines():
        say(line)
    say(f"  The largest batch has {len(batch)} images of {height} x {width} pixels on each rank.")
    if cfg.train.get("early_stopping") and cfg.train.early_stopping.metric is not None:
        say("  train.early_stopping may end the training before.")
    warnings = forecast.warnings()
    for option in ("best_checkpoint", "early_stopping"):
        metric = (cfg.train.get(option) or {}).get("metric")
        if metric is not None and metric not in results:
            warnings.append(
                f"train.{option}.metric: the evaluation gave no {metric!r}, but "
                f"{', '.join(sorted(results))}"
            )
    for warning in warnings:
        say(f"  Warning: {warning}")
