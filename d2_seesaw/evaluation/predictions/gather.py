"""Columns of all ranks on the main process, sent as they lie in memory.

Nothing is pickled, and no disk has to be shared. The main process allocates each column once, in
its full length, and the ranks' values arrive where they stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm

from d2_seesaw.evaluation.predictions.column_joining import empty_column, layouts_of
from d2_seesaw.evaluation.predictions.detections import EMPTY, DetectionColumns, common_columns

_BYTES_PER_MESSAGE = 2**30


def all_gather_json(value: Any) -> list[Any]:
    """What each rank gives, on all ranks; tuples become lists.

    Args:
        value: Something small that JSON can say.
    """
    if comm.get_world_size() == 1:
        return [json.loads(json.dumps(value))]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    group, ranks = _cpu_group(), range(comm.get_world_size())
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in ranks]
    dist.all_gather(lengths, torch.tensor([len(own)]), group=group)
    # Tensors of an all_gather must be of one size.
    longest = max(int(n) for n in lengths)
    texts = [torch.zeros(longest, dtype=torch.uint8) for _ in ranks]
    dist.all_gather(texts, torch.nn.functional.pad(own, (0, longest - len(own))), group=group)
    return [json.loads(bytes(t[:n].tolist())) for t, n in zip(texts, lengths, strict=True)]


def gather_detections(own: DetectionColumns) -> DetectionColumns:
    """Those of all ranks, rank by rank, on the main process; none on the others.

    Ranks without detections may lack columns that others have.

    Raises:
        ValueError: on all ranks, if some of them have boxes or masks and others have not.
    """
    of_ranks = [n for n in all_gather_json(list(own.arrays()) if len(own) else []) if n]
    with_mask_scores = "mask_scores" in common_columns(of_ranks)
    gathered = gather_columns(own.arrays(with_mask_scores=with_mask_scores) if len(own) else {})
    return DetectionColumns.from_arrays(gathered) if gathered else EMPTY


def gather_columns(own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of all ranks, one rank below the other, on the main process; ``{}`` on the others.

    The main process holds its own columns, the result, and while types differ one column of one
    rank, such as ids that are longer elsewhere.

    Args:
        own: Columns of numbers or text. All ranks have the same, except that some may have none.
    """
    if comm.get_world_size() == 1:
        return dict(own)
    of_ranks = all_gather_json(layouts_of(own))
    names = next((list(layouts) for layouts in of_ranks if layouts), [])
    if not comm.is_main_process():
        for name in names if own else []:
            _send(own[name])
        return {}
    return {name: _receive(own, name, of_ranks) for name in names}


def _receive(
    own: Mapping[str, np.ndarray], name: str, of_ranks: list[dict[str, Any]]
) -> np.ndarray:
    layouts = {
        rank: (np.dtype(layouts[name][0]), tuple(layouts[name][1]))
        for rank, layouts in enumerate(of_ranks)
        if layouts
    }
    column = empty_column(list(layouts.values()))
    start = 0
    for rank, (dtype, shape) in layouts.items():
        place = column[start : start + shape[0]]
        start += shape[0]
        if rank == comm.get_rank():
            place[...] = own[name]
        elif dtype == column.dtype:
            _receive_into(place, rank)
        else:
            part = np.empty(shape, dtype)
            _receive_into(part, rank)
            place[...] = part
    return column


def _receive_into(place: np.ndarray, rank: int) -> None:
    for message in _messages(place):
        dist.recv(message, src=rank, group=_cpu_group())


def _send(column: np.ndarray) -> None:
    # torch warns of memory that is read-only.
    for message in _messages(np.require(column, requirements=["W"])):
        dist.send(message, dst=0, group=_cpu_group())


def _messages(column: np.ndarray) -> Sequence[torch.Tensor]:
    """The memory of a contiguous array, in parts of which Linux can send each at once."""
    if not column.nbytes:
        return []
    return torch.from_numpy(column.reshape(-1).view(np.uint8)).split(_BYTES_PER_MESSAGE)


def _cpu_group() -> Any:
    """That of ``comm.gather``: all ranks, on gloo where GPUs talk by NCCL."""
    return comm._get_global_gloo_group()
