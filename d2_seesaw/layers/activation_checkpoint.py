"""Activation checkpointing that does not update batch norm statistics twice."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    """Call ``module(*inputs)``, keep only ``inputs``, and recompute the rest in the backward pass.

    The recomputation leaves the running statistics of batch norms unchanged, so that each batch
    counts once. Random operations give the same result both times.

    Not for use inside ``torch.compile``, which chooses itself what to recompute.

    Args:
        module: called with ``inputs``, tensors or lists of them.
        inputs: its arguments.
        options: its keyword arguments, which are kept, too.
    """
    contexts = partial(_contexts, module)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of the forward pass and of the recomputation."""
    return nullcontext(), _unchanged_statistics(module)


@contextmanager
def _unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode update copies of their buffers, which are discarded."""
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
