"""Statistics that are computed once where activation checkpointing runs a loss several times.

``torch.utils.checkpoint`` runs a region in the forward pass and again in the backward pass. A loss
that counts classes must count in the first pass only. Its second pass must weigh the classes as the
first one did, although other batches may have been counted since. The results of the first pass are
therefore kept with the region, on the object that PyTorch keeps for it until the graph is freed.

PyTorch does not say which region runs, but its functions on the call stack hold that object. If it
is not found, as for other implementations of checkpointing, the second pass is an error.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import CodeType, FrameType, GeneratorType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import CheckpointFunction

_FORWARD = cast(CodeType, CheckpointFunction.forward.__code__)
_BACKWARD = cast(CodeType, CheckpointFunction.backward.__code__)
_CHECKPOINT_FILE = _FORWARD.co_filename
_ATTRIBUTE = "_d2_seesaw_first_passes"

Tensors = tuple[Tensor, ...]


class _Results:
    """Results of the first pass through a region, by loss, in the order of their calls."""

    def __init__(self) -> None:
        self.by_loss: dict[nn.Module, list[Tensors]] = {}
        self._recomputation: Any = None
        self._repeated: dict[nn.Module, int] = {}

    def next(self, loss: nn.Module, recomputation: Any) -> Tensors | None:
        """Return the result of the loss's next call in a recomputation; None if there is none."""
        if recomputation != self._recomputation:  # a graph that is retained is recomputed again
            self._recomputation, self._repeated = recomputation, {}
        position = self._repeated.get(loss, 0)
        self._repeated[loss] = position + 1
        results = self.by_loss.get(loss, [])
        return results[position] if position < len(results) else None


def once(loss: nn.Module, compute: Callable[[bool], Tensors]) -> Tensors:
    """Call ``compute`` in the first pass, and return the same tensors in its recomputation.

    Args:
        loss: the module that computes them. Several calls in a region are told apart by their
            order.
        compute: gets whether this is a training step: the loss is in training mode and its result
            will be differentiated. A validation loss under ``torch.no_grad()`` must thus change
            nothing and not communicate. The tensors do not need gradients.

    Raises:
        RuntimeError: the loss is called in a backward pass, and its first pass is unknown.
    """
    if torch.compiler.is_compiling():
        return _compute_in_graph(loss, compute)
    running, recomputed = _regions(sys._getframe(1))
    result = _repeat(loss, *recomputed) if recomputed else _compute(loss, compute, running)
    if running:
        with _disable_current_modes():
            kept = tuple(tensor.detach().clone() for tensor in result)
        for region in running:
            if not hasattr(region, _ATTRIBUTE):
                setattr(region, _ATTRIBUTE, _Results())
            getattr(region, _ATTRIBUTE).by_loss.setdefault(loss, []).append(kept)
    return result


def _compute(loss: nn.Module, compute: Callable[[bool], Tensors], running: list[Any]) -> Tensors:
    differentiated = torch.is_grad_enabled() or any(map(_is_differentiated, running))
    is_training_step = loss.training and differentiated
    if is_training_step and _in_backward_pass():
        raise RuntimeError(_unknown_pass(type(loss).__name__))
    # Selective checkpointing expects the operations that it sees in a recomputation, too.
    with _disable_current_modes() if running else nullcontext():
        return compute(is_training_step)


def _repeat(loss: nn.Module, region: Any, recomputation: Any) -> Tensors:
    results: _Results | None = getattr(region, _ATTRIBUTE, None)
    result = None if results is None else results.next(loss, recomputation)
    if result is None:
        raise RuntimeError(_unknown_pass(type(loss).__name__))
    return result


def _compute_in_graph(loss: nn.Module, compute: Callable[[bool], Tensors]) -> Tensors:
    is_training_step = loss.training and torch.is_grad_enabled()
    if is_training_step:
        for buffer in loss.buffers():
            _refuse_recomputation(buffer)
    return compute(is_training_step)


def _regions(frame: FrameType | None) -> tuple[list[Any], tuple[Any, Any] | None]:
    """Find the checkpointed regions on the call stack.

    Returns:
        The regions that run for the first time, and the one that is recomputed, with a value that
        identifies the recomputation.
    """
    running = []
    while frame is not None:
        code = frame.f_code
        if code is _FORWARD:
            running.append(frame.f_locals["ctx"])
        elif code is _BACKWARD:
            return running, (frame.f_locals["ctx"], torch._C._current_graph_task_id())
        elif code.co_filename == _CHECKPOINT_FILE:
            variables = frame.f_locals
            if code.co_name == "unpack_hook" and "frame" in variables:
                return running, (variables["frame"], variables.get("gid"))
            generator = variables.get("gen")
            if isinstance(generator, GeneratorType) and generator.gi_frame is not None:
                region = generator.gi_frame.f_locals.get("new_frame")
                running += [] if region is None else [region]
        frame = frame.f_back
    return running, None


def _is_differentiated(region: Any) -> bool:
    """Return whether a reentrant region, which runs without gradients, will be differentiated."""
    return bool(getattr(region, "next_functions", ()))


def _in_backward_pass() -> bool:
    return torch._C._current_graph_task_id() != -1


def _unknown_pass(loss: str) -> str:
    return (
        f"{loss} was called in a backward pass, where it would count a batch a second time: "
        "activation checkpointing recomputes it, and its first pass is not known. Call it outside "
        "of the checkpointed region, or use torch.utils.checkpoint without torch.compile"
    )


@torch.library.custom_op("d2_seesaw::refuse_recomputation", mutates_args=("statistics",))
def _refuse_recomputation(statistics: Tensor) -> None:
    """Raise if a compiled loss runs in a backward pass.

    A compiled graph does not see the call stack. The statistics are declared as changed, so that
    this operator is neither removed nor reordered.
    """
    if _in_backward_pass():
        raise RuntimeError(_unknown_pass("A compiled loss"))


@_refuse_recomputation.register_fake
def _(statistics: Tensor) -> None:
    return None
