"""A deterministic measure of memory: the bytes of tensors that are alive at the same time."""

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
