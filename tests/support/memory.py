"""Memory that a call takes: of the process, as Linux counts it, and of tensors.

The bytes of tensors that are alive at the same time are a deterministic measure.
"""

import mmap
import weakref
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MEGABYTE = 2**20


def added_at_peak(call):
    """What ``call`` returns, and bytes of its peak. Arrays of more than 32 MB are told apart."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmHWM")
    except (OSError, StopIteration):
        pytest.skip("this system does not tell the peak of a part of a process")
    result = call()
    return result, _status("VmHWM") - before


def mapped_ones(size):
    """uint8 in memory that goes back to the system at once; what malloc gave may stay."""
    ones = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    ones[:] = 1
    return ones


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


class PeakBytes(TorchDispatchMode):
    """Counts the storage of every tensor that an operator takes or returns, until it is freed.

    Unlike the memory of the process, the count is the same in every run: nothing is left of
    caching allocators, garbage collection or what ran before. What exists when an operator first
    sees it, such as weights, counts as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._see((args, kwargs))
        result = func(*args, **(kwargs or {}))
        self._see(result)
        return result

    def _see(self, tree):
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, key)
        self.peak = max(self.peak, self.now)

    def _freed(self, key):
        self.now -= self.alive.pop(key)
