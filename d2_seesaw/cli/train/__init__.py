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
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from d2_seesaw.cli import RunError, command_parser, ending_in_one_line, errors_in_one_line
from d2_seesaw.cli.train.evaluating import evaluate_checkpoint
from d2_seesaw.cli.train.training import train
from d2_seesaw.data import check_dataset_files
from d2_seesaw.engine import check_trackers, load_config
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.engine.launch import check_machine, launch_training
from d2_seesaw.engine.ranks import EXIT_STATUS, last_checkpoint, watch_ranks
from d2_seesaw.engine.schedule import format_changes, scale_to_world_size
from d2_seesaw.inference.class_names import check_class_names_of_splits
from d2_seesaw.utils.folder_lock import check_folder_is_free, folder_lock, is_locked
from d2_seesaw.utils.ranks import OtherRankError, raise_on_all_ranks

logger = logging.getLogger("d2_seesaw")

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


def setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Set up logging and seeds, and save the config."""
    changes = scale_to_world_size(cfg, comm.get_world_size()) if args.auto_scale_lr else None
    if args.eval_only:
        _set_up_evaluation(cfg, args)
    else:
        default_setup(cfg, args)
        setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="d2_seesaw")
    if changes is not None:
        reference = cfg.train.reference_world_size
        logger.info(format_changes(changes, reference, comm.get_world_size()))


def _set_up_evaluation(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Log to log_eval.txt and save config_eval.yaml: other files belong to the training."""
    folder, rank = Path(cfg.train.output_dir), comm.get_rank()
    log = str(folder / "log_eval.txt")
    for name in ("fvcore", "detectron2", "d2_seesaw"):
        setup_logger(log, distributed_rank=rank, name=name, configure_stdout=False)
    without_folder = copy.deepcopy(cfg)
    without_folder.train.output_dir = None  # Detectron2 would log and save there
    default_setup(without_folder, args)
    setup_logger(distributed_rank=rank, name="d2_seesaw")
    if comm.is_main_process():
        LazyConfig.save(cfg, str(folder / "config_eval.yaml"))
    results = cfg.dataloader.evaluator.get("output_dir")
    if results and is_locked(folder):
        cfg.dataloader.evaluator.output_dir = f"{results}_eval"
        logger.info("A training writes to %s, so results go to %s_eval", folder, results)


def run(args: argparse.Namespace) -> None:
    """Train or evaluate on this rank.

    Raises:
        RunError: another run writes to the output folder, another rank failed; or see
            :func:`train`.
    """
    with ending_in_one_line(OtherRankError), ExitStack() as stack:
        with ending_in_one_line(ValueError, OSError, OtherRankError):
            cfg = read_config(args)
            with raise_on_all_ranks():
                if comm.is_main_process() and not args.eval_only:
                    stack.enter_context(folder_lock(cfg.train.output_dir))
            saved_in = "" if args.eval_only else cfg.train.output_dir
            stack.enter_context(watch_ranks(cfg.train.get("rank_timeout"), saved_in))
            setup(cfg, args)
        if args.resume and (unused := [o for o in args.opts if o.startswith("optimizer.")]):
            logger.warning("--resume restores the optimizer, so %s has no effect", " ".join(unused))
        if not args.eval_only:
            train(cfg, resume=args.resume)
            return
        evaluate_checkpoint(cfg, tta=args.tta)


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
        # Rank 0 takes the lock. The other processes of torchrun may start later than that.
        if not args.eval_only and args.machine_rank == 0 and os.environ.get("RANK", "0") == "0":
            check_folder_is_free(cfg.train.output_dir)
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
    except ProcessExitedException as error:
        if error.exit_code == EXIT_STATUS:  # a rank has written the line
            return EXIT_STATUS
        saved = "" if args.eval_only else f"; {last_checkpoint(cfg.train.output_dir)}"
        end = error.signal_name or f"exit status {error.exit_code}"
        rank = args.machine_rank * args.num_gpus + error.error_index
        sys.exit(f"d2-seesaw train: rank {rank} died ({end}){saved}")
    return 0
