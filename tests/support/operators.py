"""Recorders of the operators that run and of the tensors that autograd saves."""

from collections import Counter

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
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


class HostReads(TorchFunctionMode):
    """Recorder of the calls that make the host wait for a GPU, also where there is none.

    Each reads values of a tensor, or a number of elements that depends on them, or copies values of
    the host to the device.

    Attributes:
        calls: number of calls by name.
    """

    READS = (
        *("item", "tolist", "nonzero", "argwhere", "unique", "bincount", "masked_select", "equal"),
        *("__bool__", "__int__", "__float__", "__index__", "__array__", "numpy", "cpu"),
        *("multinomial", "tensor", "new_tensor", "as_tensor"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("__getitem__", "__setitem__"):
            # Masked assignment of a number is masked_fill, which does not wait.
            is_fill = name == "__setitem__" and not isinstance(args[2], Tensor)
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            masks = [i for i in index if isinstance(i, Tensor) and i.dtype == torch.bool]
            self.calls["mask"] += len(masks) if not is_fill else 0
        elif name in self.READS:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


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
