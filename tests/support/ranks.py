"""Runner of a function on several gloo ranks, forked from a server with preloaded modules."""

import gc
import multiprocessing
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessException, start_processes

# Imports take most of a rank's time, so they run once per test session. None of these modules may
# initialize CUDA, because a forked process cannot use it then.
multiprocessing.set_forkserver_preload(
    ["pytest", "fvcore.nn.precise_bn", "d2_seesaw.cli.train", "d2_seesaw.evaluation"]
)


def run_on_ranks(
    fn: Callable[..., Any], *args: Any, world_size: int, timeout: float = 120.0
) -> list[Any]:
    """Run ``fn(*args)`` on every rank of a gloo process group; return the results in rank order.

    ``fn`` gets its rank from ``torch.distributed``. It and its arguments are pickled, so it must be
    a top-level function. The ranks meet through a file, so no port is needed.

    Raises:
        RuntimeError: a rank raised. The message has the traceback of the first one, because the
            others then only report a lost connection.
        TimeoutError: the ranks did not finish within ``timeout`` seconds and were killed.
    """
    with TemporaryDirectory() as folder:
        ranks = (world_size, Path(folder), fn, args)
        try:
            run_processes(_run_rank, ranks, world_size=world_size, timeout=timeout)
        except ProcessException as error:
            raise RuntimeError(_first_error(Path(folder)) or str(error)) from error
        # These files are our own. The function may return any type, hence weights_only=False.
        return [torch.load(_result(Path(folder), r), weights_only=False) for r in range(world_size)]


def run_processes(
    fn: Callable[..., Any], args: tuple[Any, ...], *, world_size: int, timeout: float = 120.0
) -> None:
    """Run ``fn(rank, *args)`` in processes that are forked from the server, until all have ended.

    Raises:
        ProcessException: a process failed.
        TimeoutError: the processes did not finish within ``timeout`` seconds and were killed.
    """
    context = start_processes(
        fn, args=args, nprocs=world_size, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + timeout
    try:
        while not context.join(timeout=1.0):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{world_size} ranks did not finish within {timeout} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _result(folder: Path, rank: int) -> Path:
    return folder / f"result_{rank}.pt"


def _first_error(folder: Path) -> str:
    path = folder / "error.txt"
    return path.read_text() if path.exists() else ""


def _run_rank(
    rank: int, world_size: int, folder: Path, fn: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    try:
        torch.save(fn(*args), _result(folder, rank))
    except Exception:
        with suppress(FileExistsError), (folder / "error.txt").open("x") as first_error:
            first_error.write(f"rank {rank} failed:\n{traceback.format_exc()}")
        raise
    finally:
        # A process group that is still referenced at exit sometimes aborts the process. Detectron2
        # holds it in a cache, trainers and DDP in reference cycles.
        comm._get_global_gloo_group.cache_clear()
        gc.collect()
        dist.destroy_process_group()


def no_objects_between_ranks():
    """Make every function that pickles objects for other ranks fail."""
    fail = mock.Mock(side_effect=AssertionError("an object is pickled"))
    names = [n for n in vars(dist) if n.endswith(("_object", "_object_list"))]
    assert {"all_gather_object", "gather_object", "send_object_list"} <= set(names)
    return mock.patch.multiple(dist, **dict.fromkeys(names, fail))
