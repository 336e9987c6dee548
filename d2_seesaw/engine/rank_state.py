"""Buffers that differ between the ranks, saved with a checkpoint and restored on each rank.

A checkpoint has the model of the first rank. Statistics of batch norm and class counts that are not
shared follow from the images of each rank.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class RankState:
    """Buffers of models on the ranks other than the first, as an object of the checkpointer.

    It must be loaded after the models.

    Args:
        models: models by name; may be wrapped in DDP. None is left out.
    """

    def __init__(self, **models: nn.Module | None) -> None:
        self.models = {name: model for name, model in models.items() if model is not None}
        self._ranks: list[dict[str, Tensor]] = []

    def gather(self) -> None:
        """Collect the buffers on the first rank. Every rank must call this before a checkpoint."""
        if comm.get_world_size() == 1:
            return
        own = {name: buffer.detach().cpu().clone() for name, buffer in self._buffers()}
        gathered: Any = comm.gather(own)
        first, *others = gathered or [{}]
        self._ranks = [
            {name: b for name, b in buffers.items() if not torch.equal(b, first[name])}
            for buffers in others
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return, for each rank but the first, the buffers that differ from those of the first."""
        return {"ranks": self._ranks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the buffers of this rank; another number of ranks keeps those of the first."""
        saved = state["ranks"]
        rank = comm.get_rank()
        if rank == 0 or len(saved) != comm.get_world_size() - 1:
            return
        buffers = dict(self._buffers())
        for name, value in saved[rank - 1].items():
            if name in buffers:
                buffers[name].copy_(value)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for name, model in self.models.items():
            module = model.module if isinstance(model, DistributedDataParallel) else model
            for key, buffer in module.named_buffers():
                yield f"{name}.{key}", buffer
