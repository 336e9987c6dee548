"""Memory measurements of a call: the process (Linux only) and the live tensors.

The peak size of live tensors is deterministic, the memory of the process is not.
"""

import weakref
from pathlib import Path

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MEGABYTE = 2**20


def added_at_peak(call):
    """Return the result of ``call`` and the growth of the process's peak memory, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmHWM")
    except (OSError, StopIteration):
        pytest.skip("this system cannot reset the peak memory of a process")
    result = call()
    return result, _status("VmHWM") - before


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


class PeakBytes(TorchDispatchMode):
    """Counter of the live storage of all tensors that operators take or return.

    Unlike the memory of the process, the count is the same in every run: it does not depend on
    caching allocators, garbage collection or earlier tests. Tensors that existed before, such as
    weights, are counted when an operator first uses them.
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
