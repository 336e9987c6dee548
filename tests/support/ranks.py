"""Runs a function on several gloo ranks: each a new process, or this process the first of them."""

import datetime
import gc
import pickle
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
import torch.multiprocessing as mp
from detectron2.utils import comm


def run_on_ranks(
    fn: Callable[..., Any], *args: Any, world_size: int, timeout: float = 120.0
) -> list[Any]:
    """``fn(*args)`` on every rank of a gloo process group; what it returned, by rank.

    ``fn`` asks ``torch.distributed`` for its rank. It and its arguments must be picklable, so it
    is a function at the top of a module. The ranks meet in a file: no port can be taken already.

    Raises:
        RuntimeError: a rank raised; with the traceback of the first that did, because the others
            then only report a lost connection.
        TimeoutError: not all ranks were done in ``timeout`` seconds; they are then killed.
    """
    with TemporaryDirectory() as folder:
        context = mp.start_processes(
            _run_rank,
            args=(world_size, Path(folder), fn, args),
            nprocs=world_size,
            join=False,
            start_method="spawn",
        )
        deadline = time.monotonic() + timeout
        try:
            while not context.join(timeout=1.0):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{world_size} ranks were not done in {timeout} s")
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            raise RuntimeError(_first_error(Path(folder)) or str(error)) from error
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
                process.join()
        # Our own file, from our own process, of any type the function likes to return.
        return [torch.load(_result(Path(folder), r), weights_only=False) for r in range(world_size)]


def _result(folder: Path, rank: int) -> Path:
    return folder / f"result_{rank}.pt"


def _first_error(folder: Path) -> str:
    path = folder / "error.txt"
    return path.read_text() if path.exists() else ""


def _run_rank(
    rank: int, world_size: int, folder: Path, fn: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        torch.save(fn(*args), _result(folder, rank))
    except Exception:
        with suppress(FileExistsError), (folder / "error.txt").open("x") as first_error:
            first_error.write(f"rank {rank} failed:\n{traceback.format_exc()}")
        raise
    finally:
        # A group that is still referred to when Python ends, after its destruction, now and then
        # aborts the process. Detectron2 keeps it in a cache, trainers and DDP in cycles.
        comm._get_global_gloo_group.cache_clear()
        gc.collect()
        dist.destroy_process_group()


def on_ranks(function, world_sizes, folder, *args):
    """``{world size: [result of each rank]}`` of ``function(rank, world size, *args)``.

    Started are as many processes as the largest of ``world_sizes`` needs besides this one: their
    imports are what takes time.
    """
    others = range(1, max(world_sizes))
    started = mp.spawn(
        _start, (function, world_sizes, folder, args), nprocs=len(others), join=False
    )
    results = {0: _on_rank(0, function, world_sizes, folder, args)}
    while not started.join():
        pass
    for rank in others:
        results[rank] = pickle.loads((folder / f"{rank}.pkl").read_bytes())
    return {size: [results[rank][size] for rank in range(size)] for size in world_sizes}


def _start(index, function, world_sizes, folder, args):
    results = _on_rank(1 + index, function, world_sizes, folder, args)
    (folder / f"{1 + index}.pkl").write_bytes(pickle.dumps(results))


def _on_rank(rank, function, world_sizes, folder, args):
    results = {}
    for size in world_sizes:
        if rank < size:
            dist.init_process_group(
                "gloo",
                f"file://{folder}/store{size}",
                rank=rank,
                world_size=size,
                timeout=datetime.timedelta(minutes=2),
            )
            try:
                results[size] = function(rank, size, *args)
            finally:
                # Detectron2 caches the group. Alive at exit, its threads abort the process in half
                # of the runs.
                comm._get_global_gloo_group.cache_clear()
                dist.destroy_process_group()
    return results


def no_objects_between_ranks():
    """Lets what pickles objects for other ranks fail."""
    fail = mock.Mock(side_effect=AssertionError("an object is pickled"))
    names = [n for n in vars(dist) if n.endswith(("_object", "_object_list"))]
    assert {"all_gather_object", "gather_object", "send_object_list"} <= set(names)
    return mock.patch.multiple(dist, **dict.fromkeys(names, fail))
