r"""Train or evaluate a model that a LazyConfig describes.

The config is a path or the name of a shipped config, such as lvis_v1_seesaw for
configs/lvis_v1_seesaw.py. A Python config is a program, which is run; nothing in a YAML config is
run without --trust. Without a GPU, --num-gpus N starts N processes on the CPU.
`python train_net.py` in a checkout is the same command.

Examples:
  d2-seesaw train --config-file lvis_v1_seesaw --num-gpus 8
  d2-seesaw train --config-file lvis_v1_seesaw --num-gpus 8 --resume
  d2-seesaw train --config-file my_config.py train.max_iter=1000 train.output_dir=output/mine
  d2-seesaw train --data train.json val.json --images images --output output/mine
  d2-seesaw train --config-file lvis_v1_seesaw --num-gpus 8 --eval-only --tta \
      train.init_checkpoint=model.pth
  torchrun --nproc-per-node 8 -m d2_seesaw train --config-file lvis_v1_seesaw
"""

import argparse
import copy
import functools
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from d2_seesaw.checkpoint import prepare_folder
from d2_seesaw.cli import (
    RunError,
    add_trust,
    command_parser,
    ending_in_one_line,
    errors_in_one_line,
    say,
)
from d2_seesaw.cli.train import dry_run
from d2_seesaw.cli.train.evaluating import evaluate_checkpoint
from d2_seesaw.cli.train.output import log_to_file, save_config
from d2_seesaw.cli.train.own_data import add_own_data, choose_own_data
from d2_seesaw.cli.train.reading import check_arguments, is_overridden, read_config
from d2_seesaw.cli.train.training import train
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.engine.launch import check_machine, launch_training, starts_ranks
from d2_seesaw.engine.ranks import EXIT_STATUS, last_checkpoint, watch_ranks
from d2_seesaw.engine.schedule import format_changes, scale_to_world_size
from d2_seesaw.engine.stop import (
    Stopped,
    StopSignals,
    active_signals,
    end_loading_processes,
    failures_of_a_stop,
)
from d2_seesaw.utils.folder_lock import check_folder_is_free, folder_lock, is_locked
from d2_seesaw.utils.ranks import OtherRankError, raise_on_all_ranks

logger = logging.getLogger("d2_seesaw")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser: Detectron2's training flags, scaling and test-time augmentation."""
    detectron2s = default_argument_parser()
    parser = command_parser(
        "train", __doc__, parents=[detectron2s], add_help=False, allow_abbrev=False
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale batch size, learning rate and number of steps from train.reference_world_size "
        "GPUs to the number of GPUs in use",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="move the files of an earlier training in train.output_dir to its folder previous_1, "
        "previous_2 and so on, and start anew",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="with --eval-only: test-time augmentation with the views of the config's tta",
    )
    parser.add_argument(
        "--no-calibration",
        action="store_true",
        help="with --eval-only: leave out the calibration that `d2-seesaw calibrate` stored",
    )
    add_own_data(parser)
    dry_run.add_flag(parser)
    add_trust(parser)
    (resume,) = [a for a in detectron2s._actions if a.dest == "resume"]
    resume.help = (
        "continue from the newest checkpoint in train.output_dir that can be read; start at 0 if "
        "there is none"
    )
    # Detectron2's default is one port per user, which two trainings at once would share.
    parser.set_defaults(dist_url="auto")
    return parser


def setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Prepare the output folder, set up logging and seeds, and save the config."""
    notes = [] if args.eval_only else _prepare_for_training(cfg, args)
    changes = scale_to_world_size(cfg, comm.get_world_size()) if args.auto_scale_lr else None
    # The other files in the folder belong to the training, which may still be writing to it.
    folder = cfg.train.output_dir
    log_to_file(os.path.join(folder, "log_eval.txt" if args.eval_only else "log.txt"))
    default_setup(_without_folder(cfg), args)
    setup_logger(distributed_rank=comm.get_rank(), name="d2_seesaw")
    if comm.is_main_process() and args.eval_only:  # training saves it when it has been resumed
        save_config(cfg, os.path.join(folder, "config_eval.yaml"))
    for note in notes:
        logger.info(note)
    results = cfg.dataloader.evaluator.get("output_dir")
    if args.eval_only and results and is_locked(folder):
        cfg.dataloader.evaluator.output_dir = f"{results}_eval"
        logger.info("A training writes to %s, so results go to %s_eval", folder, results)
    if changes is not None:
        reference = cfg.train.reference_world_size
        logger.info(format_changes(changes, reference, comm.get_world_size()))


def _prepare_for_training(cfg: DictConfig, args: argparse.Namespace) -> list[str]:
    """Prepare the folder, follow files that are moved aside, and return lines for the log."""
    prepared = prepare_folder(cfg.train.output_dir, resume=args.resume, restart=args.restart)
    args.config_file = prepared.follow(args.config_file)
    cfg.train.init_checkpoint = prepared.follow(cfg.train.init_checkpoint)
    return prepared.notes


def _without_folder(cfg: DictConfig) -> DictConfig:
    """Return the config with which Detectron2 writes nothing itself: it overwrites config.yaml."""
    cfg = copy.deepcopy(cfg)
    cfg.train.output_dir = None
    return cfg


def run(args: argparse.Namespace, cfg: DictConfig | None = None) -> None:
    """Train or evaluate on this rank.

    Args:
        args: the parsed arguments.
        cfg: the config, if this process has read it.

    Raises:
        RunError: another run writes to the output folder, another rank failed; or see
            :func:`train`.
        Stopped: a signal ended the run; this rank has reported what is saved.
    """
    signals = active_signals()
    try:
        with failures_of_a_stop():
            _run(args, cfg, signals)
    except Stopped:
        if signals is not None:
            signals.tell()
        raise
    finally:
        end_loading_processes()


def _run(args: argparse.Namespace, cfg: DictConfig | None, signals: StopSignals | None) -> None:
    with ending_in_one_line(OtherRankError), ExitStack() as stack:
        with ending_in_one_line(ValueError, OSError, OtherRankError):
            cfg = read_config(args) if cfg is None else cfg
            dry_run.redirect(cfg, args)
            with raise_on_all_ranks():
                if comm.is_main_process() and not args.eval_only:
                    stack.enter_context(folder_lock(cfg.train.output_dir))
            saved_in = "" if args.eval_only else cfg.train.output_dir
            stack.enter_context(watch_ranks(cfg.train.get("rank_timeout"), saved_in))
            setup(cfg, args)
        if signals is not None:
            signals.outcome = _outcome(args, cfg)
        if args.dry_run:
            dry_run.run(cfg, args)
            return
        if not args.eval_only:
            train(cfg, resume=args.resume)
            return
        evaluate_checkpoint(cfg, tta=args.tta, calibrated=not args.no_calibration)


def _outcome(args: argparse.Namespace, cfg: DictConfig) -> Callable[[str, bool], str]:
    """Return a function that says what a stopped run has saved, as the output folder shows it."""

    def outcome(name: str, lost: bool) -> str:
        if args.eval_only or args.dry_run:
            what = "dry run" if args.dry_run else "evaluation"
            return f"{name}: the {what} was not finished; it saves nothing"
        path = _checkpoint(cfg.train.output_dir, args.resume, args.started)
        if path is None:
            return f"{name}: " + (
                "nothing was saved" if lost else "no step was finished; nothing to save"
            )
        step = _step_of(path)
        saved = path if step is None else f"{path}, step {step}"
        if step is not None and cfg.train.max_iter is not None:
            saved += f" of {cfg.train.max_iter}"
        before = "the last checkpoint is" if lost else "everything up to the last step is saved,"
        return f"{name}: {before} {saved}. Continue with: {args.continue_with}"

    return outcome


def _checkpoint(output_dir: str, resume: bool, started: float) -> str | None:
    """Return the last checkpoint, unless it is that of an earlier run in the folder."""
    last = Path(output_dir, "last_checkpoint")
    try:
        path = last.with_name(last.read_text().strip())
        of_this_run = resume or last.stat().st_mtime >= started
    except OSError:
        return None
    return str(path) if of_this_run and path.is_file() else None


def _step_of(path: str) -> int | None:
    """Return the number of steps that a checkpoint has been trained, if it can be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content["trainer"]["iteration"] + 1
    except Exception:  # the message must not fail; the next start checks the file
        return None


def command_to_continue(arguments: Sequence[str]) -> str:
    """Return the command line that continues this run.

    Args:
        arguments: those behind ``d2-seesaw train``.
    """
    arguments = list(arguments)
    called = sys.orig_argv
    launcher = _launcher(called[1:]) if "TORCHELASTIC_RUN_ID" in os.environ else None
    if launcher is not None:
        before = launcher
    elif arguments and called[-len(arguments) :] == arguments:
        before = called[: -len(arguments)]
    else:  # called from Python
        before = ["d2-seesaw", "train"]
    if Path(before[0]).name.startswith("python") and before[1:2] and _is_script(before[1]):
        before = [Path(before[1]).name, *before[2:]]  # installed as a program
    flags = [] if "--resume" in arguments else ["--resume"]
    return shlex.join([*before, *flags, *(a for a in arguments if a != "--restart")])


def _is_script(path: str) -> bool:
    return not path.startswith("-") and not path.endswith(".py")


def _launcher(called: list[str]) -> list[str] | None:
    """Return torchrun's command line up to the arguments of ``train``, where it can be read."""
    try:
        line = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return None
    # A rank is called with its own program and the arguments that end torchrun's command line.
    for length in range(len(called), 0, -1):
        if line[-length:] == called[-length:]:
            own = called.index("train", len(called) - length) if "train" in called else -1
            return line[: len(line) - (len(called) - own) + 1]
    return None


def _is_first_process(args: argparse.Namespace) -> bool:
    return args.machine_rank == 0 and os.environ.get("RANK", "0") == "0"


def main(arguments: list[str] | None = None) -> int:
    """Check the command, then train or evaluate on every rank; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argument_parser()
    args = parser.parse_args(arguments)
    args.continue_with, args.started = command_to_continue(arguments), time.time()
    with StopSignals() as signals, ExitStack() as stack:
        if not _is_first_process(args):
            signals.report = lambda text: None
        try:
            with errors_in_one_line("train"):
                check_arguments(parser, args, arguments)
                starts = choose_own_data(args, arguments)
            return _main(args, signals, stack) if starts else 0
        except Stopped as stop:
            signals.tell(lost=args.num_gpus * args.num_machines > 1)
            return stop.status


def _main(args: argparse.Namespace, signals: StopSignals, stack: ExitStack) -> int:
    with errors_in_one_line("train"):
        cfg = read_config(args)  # fails here, before the ranks start
        stack.enter_context(dry_run.temporary_folder(cfg, args))
        # Rank 0 takes the lock. The other processes of torchrun may start later than that.
        if not args.eval_only and args.machine_rank == 0 and os.environ.get("RANK", "0") == "0":
            check_folder_is_free(cfg.train.output_dir)
        check_machine(cfg, args)
        args.config_file = str(find_config(args.config_file))  # Detectron2 logs the file
    if args.eval_only and not is_overridden(args, "train.init_checkpoint"):
        say(f"Evaluating {cfg.train.init_checkpoint}; train.init_checkpoint= names another model")
    signals.outcome = _outcome(args, cfg)
    try:
        # Ranks that are started read the config again, because it may register datasets.
        launch_training(run if starts_ranks(args) else functools.partial(run, cfg=cfg), args)
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
