r"""Train or evaluate a model that a LazyConfig describes.

The config is a path or the name of a shipped config, such as lvis_v1_seesaw for
configs/lvis_v1_seesaw.py. Without a GPU, --num-gpus N starts N processes on the CPU.
`python train_net.py` in a checkout is the same command.

Examples:
  d2-seesaw train --config-file lvis_v1_seesaw --num-gpus 8
  d2-seesaw train --config-file lvis_v1_seesaw --num-gpus 8 --resume
  d2-seesaw train --config-file my_config.py train.max_iter=1000 train.output_dir=output/mine
  d2-seesaw train --config-file lvis_v1_seesaw --num-gpus 8 --eval-only --tta \
      train.init_checkpoint=model.pth
  torchrun --nproc-per-node 8 -m d2_seesaw train --config-file lvis_v1_seesaw
"""

import argparse
import copy
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from d2_seesaw.checkpoint import StrictCheckpointer, class_metadata
from d2_seesaw.cli import RunError, command_parser, ending_in_one_line, errors_in_one_line
from d2_seesaw.data import check_dataset_files
from d2_seesaw.data.bad_images import BadImageError, NamingMapper
from d2_seesaw.data.loader import check_test_files, dataset_has_masks
from d2_seesaw.engine import (
    EMAHook,
    Trainer,
    check_trackers,
    compile_parts,
    load_config,
    tracking_writers,
)
from d2_seesaw.engine.boxes_only import boxes_only, masks_left_out
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.engine.launch import check_machine, launch_training, torch_device
from d2_seesaw.engine.schedule import format_changes, scale_to_world_size
from d2_seesaw.evaluation import drop_absent, print_longtail_results
from d2_seesaw.inference import with_roi_masks
from d2_seesaw.inference.class_names import (
    check_class_names_of_splits,
    check_initial_classes,
    set_class_names,
    trained_classes,
)
from d2_seesaw.utils.ranks import OtherRankError, raise_on_all_ranks

logger = logging.getLogger("d2_seesaw")

build: Any = instantiate  # returns objects of any type

# Keys that a config needs to be evaluated, and to be trained.
EVALUATED = ("dataloader", "model", "train")
TRAINED = (*EVALUATED, "lr_multiplier", "optimizer")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser: Detectron2's training flags, scaling and test-time augmentation."""
    detectron2s = default_argument_parser()
    parser = command_parser("train", __doc__, parents=[detectron2s], add_help=False)
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale batch size, learning rate and number of steps from train.reference_world_size "
        "GPUs to the number of GPUs in use",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="with --eval-only: test-time augmentation with the views of the config's tta",
    )
    # Detectron2's default is one port per user, which two trainings at once would share.
    parser.set_defaults(dist_url="auto")
    return parser


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
    results = inference_on_dataset(model, build(test), evaluator)
    if comm.is_main_process():
        print_longtail_results(results)
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
    how = cfg.train.compile
    if how.enabled:
        compile_parts(model, how.parts, backend=how.backend, mode=how.mode, dynamic=how.dynamic)
    # DDP takes device ids for GPUs only.
    on_cpu: dict[str, Any] = {"device_ids": None} if device.type == "cpu" else {}
    return create_ddp_model(model, **cfg.train.ddp, **on_cpu)


def train(cfg: DictConfig, *, resume: bool) -> None:
    """Train to the end; with ``resume``, from the last checkpoint of the output folder.

    Raises:
        RunError: training cannot start, memory is exhausted, or too many images are bad.
    """
    with ending_in_one_line(ValueError, OSError, MemoryError, OtherRankError):
        trainer, start = build_trainer(cfg, resume=resume)
    # Detectron2 logs a traceback of every error.
    of_loop = logging.getLogger("detectron2.engine.train_loop")
    of_loop.addFilter(lambda r: not (r.exc_info and isinstance(r.exc_info[1], BadImageError)))
    with ending_in_one_line(BadImageError, MemoryError):
        trainer.train(start, cfg.train.max_iter)


def build_trainer(cfg: DictConfig, *, resume: bool) -> tuple[Trainer, int]:
    """Build the trainer with its hooks, load the weights and return it with its first iteration."""
    loader = build(cfg.dataloader.train)
    loader.bad_images.limit = cfg.train.max_bad_images
    if not loader.has_masks or masks_left_out(cfg):
        boxes_only(cfg)
    # Built early: an evaluator that cannot run fails before the training, not after it.
    evaluator = build(cfg.dataloader.evaluator)
    names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
    with raise_on_all_ranks():
        if names is not None and comm.is_main_process():
            check_test_files(names)
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
            hooks.EvalHook(
                cfg.train.eval_period, lambda: evaluate_in_training(cfg, model, evaluator, ema)
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


def read_config(args: argparse.Namespace) -> DictConfig:
    """Load the config, apply the overrides and check both before anything is built.

    Raises:
        ValueError: an unknown key or dataset, a number of classes that differs from the dataset's,
            a missing length or checkpoint, ``--tta`` without ``--eval-only`` or without ``tta`` in
            the config, or a tracker whose package is not installed.
        FileNotFoundError: the config file, the dataset or the checkpoint does not exist.
    """
    if not args.config_file:
        raise ValueError("--config-file is missing")
    cfg = load_config(args.config_file, args.opts)
    needed = EVALUATED if args.eval_only else TRAINED
    missing = [part for part in needed if part not in cfg]
    if missing:
        raise ValueError(
            f"{args.config_file} has no {', '.join(missing)}: start from a shipped config"
        )
    if cfg.train.max_iter is None and cfg.train.epochs is None:
        raise ValueError("give train.max_iter (steps) or train.epochs, both are null")
    if args.eval_only and not cfg.train.init_checkpoint:
        raise ValueError("--eval-only needs train.init_checkpoint=MODEL.pth")
    if args.tta:
        _check_tta(cfg, args)
    if not args.eval_only:
        check_trackers(cfg)
    splits = ["test"] if args.eval_only else ["train", "test"]
    names = [OmegaConf.select(cfg, f"dataloader.{split}.dataset.names") for split in splits]
    check_dataset_files([name for name in names if name is not None])
    if not args.resume:  # when resuming, the initial checkpoint may have been deleted
        _check_checkpoint_file(cfg.train.init_checkpoint)
    check_class_names_of_splits(cfg, eval_only=args.eval_only)
    return cfg


def _check_checkpoint_file(path: str | None) -> None:
    if path and "://" not in path and not os.path.isfile(path):
        raise FileNotFoundError(f"train.init_checkpoint {path!r} does not exist")


def _check_tta(cfg: DictConfig, args: argparse.Namespace) -> None:
    if not args.eval_only:
        raise ValueError("--tta needs --eval-only: evaluation during training is plain")
    if "tta" not in cfg:
        raise ValueError(
            f"--tta needs the views in the config, but {args.config_file} has no `tta`. "
            "configs/common/tta.py has examples"
        )


@contextmanager
def _config_kept(cfg: DictConfig) -> Iterator[None]:
    """Save the config of an evaluation as config_eval.yaml; keep the config.yaml of a training."""
    written = Path(cfg.train.output_dir) / "config.yaml"
    of_training = written.read_bytes() if written.exists() else None
    yield
    written.replace(written.with_name("config_eval.yaml"))
    if of_training is not None:
        written.write_bytes(of_training)


def setup(args: argparse.Namespace) -> DictConfig:
    """Set up logging and seeds, save the config and return it."""
    cfg = read_config(args)
    changes = scale_to_world_size(cfg, comm.get_world_size()) if args.auto_scale_lr else None
    with _config_kept(cfg) if args.eval_only and comm.is_main_process() else nullcontext():
        default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="d2_seesaw")
    if changes is not None:
        reference = cfg.train.reference_world_size
        logger.info(format_changes(changes, reference, comm.get_world_size()))
    return cfg


def run(args: argparse.Namespace) -> None:
    """Train or evaluate on this rank.

    Raises:
        RunError: see :func:`train`.
    """
    with ending_in_one_line(ValueError, OSError, OtherRankError):
        cfg = setup(args)
    if args.resume and (unused := [o for o in args.opts if o.startswith("optimizer.")]):
        logger.warning("--resume restores the optimizer, so %s has no effect", " ".join(unused))
    if not args.eval_only:
        train(cfg, resume=args.resume)
        return
    if args.tta and cfg.dataloader.evaluator.get("output_dir"):
        cfg.dataloader.evaluator.output_dir += "_tta"  # keeps the files of the plain evaluation
    with ending_in_one_line(ValueError, OSError, MemoryError, OtherRankError):
        names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
        if masks_left_out(cfg) or not (names is None or dataset_has_masks(names)):
            boxes_only(cfg)
        evaluator = build(cfg.dataloader.evaluator)
        model = build_model(cfg)
        loaded = StrictCheckpointer(
            model, require_all=True, allow_partial=cfg.train.allow_partial_checkpoint
        ).load(cfg.train.init_checkpoint)
        set_class_names(evaluator, trained_classes(cfg, model, loaded), cfg)
        if args.tta:
            cfg.tta.model = model
            model = build(cfg.tta)
    with ending_in_one_line(BadImageError, MemoryError):
        evaluate(cfg, model, evaluator)


def _has_checkpoint(output_dir: str, resume: bool, started: float) -> bool:
    """Return whether ``--resume`` would continue this run, and not an earlier one in the folder."""
    try:
        saved = os.path.getmtime(os.path.join(output_dir, "last_checkpoint"))
    except OSError:
        return False
    return resume or saved >= started


def main(arguments: list[str] | None = None) -> int:
    """Check the command, then train or evaluate on every rank; return the exit status."""
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line("train"):
        cfg = read_config(args)  # fails here, before the ranks start; each of them reads it again
        check_machine(cfg, args)
        args.config_file = str(find_config(args.config_file))  # Detectron2 logs the file
    started = time.time()
    try:
        launch_training(run, args)
    except KeyboardInterrupt:
        saved = not args.eval_only and _has_checkpoint(cfg.train.output_dir, args.resume, started)
        how = "continue with --resume" if saved else "nothing was saved"
        sys.stderr.write(f"d2-seesaw train: interrupted; {how}\n")
        return 128 + signal.SIGINT
    except RunError as error:
        sys.exit(f"d2-seesaw train: {error}")
    except ProcessRaisedException as error:  # the traceback of the rank is its text
        _, is_expected, message = str(error).rpartition(f"{RunError.__name__}: ")
        if not is_expected:
            raise
        sys.exit(f"d2-seesaw train: {message.strip()}")
    return 0
