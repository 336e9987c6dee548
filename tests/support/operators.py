"""Recorders of the operators that run and of the tensors that autograd saves."""

from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OperatorLog(TorchDispatchMode):
    """Recorder of the operators that run inside the context, forward and backward.

    Attributes:
        calls: number of calls by operator name, such as ``aten._local_scalar_dense``.
        largest: bytes of the largest returned tensor (of its storage, for a view).
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls[str(func.overloadpacket)] += 1
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.largest = max([self.largest, *(t.untyped_storage().nbytes() for t in tensors)])
        return result


class SavedForBackward(torch.autograd.graph.saved_tensors_hooks):
    """Recorder of the tensors that autograd saves for the backward pass inside the context."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        super().__init__(self._note, self._give_back)

    def __enter__(self) -> "SavedForBackward":  # pyright: ignore[reportIncompatibleMethodOverride]
        super().__enter__()
        return self

    def _note(self, tensor: Tensor) -> Tensor:
        # Keep the storage alive, so that no later one gets the same address.
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage
        return tensor

    def _give_back(self, tensor: Tensor) -> Tensor:
        return tensor

    def nbytes(self) -> int:
        """Return the bytes of all saved storages; a storage shared by views counts once."""
        return sum(storage.nbytes() for storage in self._storages.values())
