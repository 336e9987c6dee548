"""Launch of one process per GPU or CPU rank, or under torchrun, and checks before it."""

import argparse
import copy
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from d2_seesaw.engine.ranks.processes import run_ranks
from d2_seesaw.engine.schedule import scale_to_world_size
from d2_seesaw.engine.stop import active_signals


def launch_training(main: Callable[..., Any], args: argparse.Namespace) -> None:
    """Call ``main(args)`` on every rank.

    Without a GPU, ``--num-gpus N`` starts N processes on the CPU that communicate over gloo. Under
    torchrun, ``--num-gpus`` and ``--num-machines`` follow from torchrun.

    Raises:
        ValueError: see :func:`check_ranks`.
        Stopped: a signal ended the ranks.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun(main, args)
        return
    check_ranks(args)
    _share_cores(args.num_gpus)
    if starts_ranks(args):
        run_ranks(main, args)
    else:
        main(args)


def starts_ranks(args: argparse.Namespace) -> bool:
    """Return whether :func:`launch_training` calls ``main`` in new processes."""
    return "TORCHELASTIC_RUN_ID" not in os.environ and args.num_gpus * args.num_machines > 1


def check_machine(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Check, before any rank starts, that this machine can run a config as the flags ask.

    Raises:
        ValueError: see :func:`check_ranks` and :func:`torch_device`, or a batch that the ranks
            cannot share equally.
        OSError: the output folder cannot be written.
    """
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not under_torchrun:
        check_ranks(args)
    torch_device(cfg.train.device)
    ranks = int(os.environ["WORLD_SIZE"]) if under_torchrun else args.num_gpus * args.num_machines
    if not args.eval_only:
        _check_batch(cfg, max(1, ranks), scaled=args.auto_scale_lr)
    _check_writable(cfg.train.output_dir)


def check_ranks(args: argparse.Namespace) -> None:
    """Check the numbers of GPUs and machines on this machine.

    Raises:
        ValueError: see :func:`check_numbers`, more GPUs than the machine has, more ranks than
            cores on a machine without any, or several machines without an address.
    """
    check_numbers(args)
    available, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if available and args.num_gpus > available:
        raise ValueError(f"--num-gpus {args.num_gpus}, but this machine has {available}")
    if not available and args.num_gpus > max(2, cores):
        raise ValueError(
            f"--num-gpus {args.num_gpus}, but this machine has no GPU that torch can use, and "
            f"{cores} CPU cores for as many processes"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("--num-machines needs --dist-url tcp://ADDRESS:PORT of the first machine")


def check_numbers(args: argparse.Namespace) -> None:
    """Check the numbers of GPUs and machines, whatever machine they are for.

    As in Detectron2, ``--num-gpus 0`` is one process, like 1.

    Raises:
        ValueError: a number that is too small, or a rank that no machine has.
    """
    if args.num_gpus < 0 or args.num_machines < 1:
        raise ValueError(
            f"--num-gpus and --num-machines must be at least 0 and 1, got {args.num_gpus} and "
            f"{args.num_machines}"
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank must be from 0 to {args.num_machines - 1} (--num-machines "
            f"{args.num_machines}), got {args.machine_rank}"
        )


def torch_device(name: str) -> torch.device:
    """Return the device of a name; ``"auto"`` is the GPU if there is one, else the CPU.

    Raises:
        ValueError: an unknown device, or one that this machine does not have.
    """
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and not has_gpu:
        raise ValueError(f"device {name!r} is not available: there is no GPU that torch can use")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not available: GPUs are numbered from cuda:0")
    return device


def _check_batch(cfg: DictConfig, ranks: int, *, scaled: bool) -> None:
    if scaled:
        cfg = copy.deepcopy(cfg)
        scale_to_world_size(cfg, ranks)
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    if batch is not None and batch % ranks:
        raise ValueError(
            f"dataloader.train.total_batch_size is {batch}, which {ranks} processes cannot share "
            f"equally: make it a multiple of {ranks}, or change --num-gpus"
        )


def _check_writable(folder: str) -> None:
    if "://" in folder:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"train.output_dir {folder!r} cannot be written: {error.strerror or error}"
        ) from error


def _join_torchrun(main: Callable[..., Any], args: argparse.Namespace) -> None:
    signals = active_signals()
    if signals is not None:
        signals.parent = os.getppid()
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    _share_cores(local_size)
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    try:
        comm.create_local_process_group(local_size)
        comm.synchronize()
        main(args)
    finally:
        # Detectron2 never releases its groups. A destroyed one that still exists when Python exits
        # aborts the process.
        comm._get_global_gloo_group.cache_clear()
        comm._LOCAL_PROCESS_GROUP = None
        dist.destroy_process_group()


def _share_cores(ranks: int) -> None:
    """Give each CPU rank its share of the cores; sharing all of them is many times slower."""
    if ranks > 1 and not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // ranks)))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
