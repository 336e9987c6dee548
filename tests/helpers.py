"""What several test files need: code on several ranks, and a look at the operators that run."""

import gc
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


class OperatorLog(TorchDispatchMode):
    """Notes the operators that run inside it, forwards and backwards.

    Attributes:
        calls: how often each operator ran, by its name such as ``aten._local_scalar_dense``.
        largest: bytes of the largest tensor that any of them returned (its storage, for a view).
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
    """Notes what autograd keeps for the backward pass of the code that runs inside it."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        super().__init__(self._note, self._give_back)

    def __enter__(self) -> "SavedForBackward":
        super().__enter__()
        return self

    def _note(self, tensor: Tensor) -> Tensor:
        # Held, so that no later storage gets the same address.
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage
        return tensor

    def _give_back(self, tensor: Tensor) -> Tensor:
        return tensor

    def nbytes(self) -> int:
        """Bytes of all storages, those that several views share only once."""
        return sum(storage.nbytes() for storage in self._storages.values())
