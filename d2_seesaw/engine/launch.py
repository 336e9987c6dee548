"""Launch of one process per GPU or CPU rank, or under torchrun."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm


def launch_training(main: Callable[..., Any], args: argparse.Namespace) -> None:
    """Call ``main(args)`` on every rank.

    Without a GPU, ``--num-gpus N`` starts N processes on the CPU that communicate over gloo. Under
    torchrun, ``--num-gpus`` and ``--num-machines`` follow from torchrun.

    Raises:
        ValueError: more GPUs than the machine has, or several machines without an address.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun(main, args)
        return
    available = torch.cuda.device_count()
    if available and args.num_gpus > available:
        raise ValueError(f"--num-gpus {args.num_gpus}, but this machine has {available}")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("--num-machines needs --dist-url tcp://ADDRESS:PORT of the first machine")
    _share_cores(args.num_gpus)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def _join_torchrun(main: Callable[..., Any], args: argparse.Namespace) -> None:
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
