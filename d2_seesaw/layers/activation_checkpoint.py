"""Activation checkpointing that batch norms do not notice."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)``, of which the backward pass keeps ``inputs`` and computes the rest again.

    Without more care batch norms would see each batch twice and move their running statistics by
    two steps; here the repetition leaves them alone. What is random is the same both times.

    Not for code inside of ``torch.compile``, which decides itself what it computes again.

    Args:
        module: called with ``inputs``, tensors or lists of them.
        inputs: its arguments.
    """
    contexts = partial(_contexts, module)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For the forward pass and for its repetition."""
    return nullcontext(), _unchanged_statistics(module)


@contextmanager
def _unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms in training mode update copies of their buffers, which are then thrown away."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    buffers = [dict(m.named_buffers(recurse=False)) for m in norms]
    try:
        for m, own in zip(norms, buffers, strict=True):
            for name, buffer in own.items():
                setattr(m, name, buffer.clone())
        yield
    finally:
        for m, own in zip(norms, buffers, strict=True):
            for name, buffer in own.items():
                setattr(m, name, buffer)
