"""Helpers for tests of dense losses: flattened batches and gradients."""

import torch
from torch import Tensor


def flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Reshape ``(N, C, ...)`` logits and their labels to ``(M, C)`` and ``(M,)``."""
    return logits.movedim(1, -1).flatten(0, -2), labels.flatten()


def gradient_of(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]
