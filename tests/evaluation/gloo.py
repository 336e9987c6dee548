"""Runs a function on several gloo ranks, of which this process is the first."""

import datetime
import pickle
from unittest import mock

import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm


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
