"""Changing a model for a while, and leaving it as it was whatever happens in between."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def switched_off(module: nn.Module, *flags: str) -> Iterator[None]:
    """Set those of the ``flags`` that ``module`` has to False, and back."""
    found = {flag: getattr(module, flag) for flag in flags if hasattr(module, flag)}
    try:
        for flag in found:
            setattr(module, flag, False)
        yield
    finally:
        for flag, value in found.items():
            setattr(module, flag, value)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode, and each of its modules back in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
