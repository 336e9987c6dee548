"""Counting labels exactly, and over all ranks: what the losses with statistics have in common."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_training_step(loss: nn.Module) -> bool:
    """Whether ``loss`` may learn from this batch: training mode with gradients enabled.

    A validation loss under ``torch.no_grad()`` thus leaves statistics alone and asks no other rank.
    """
    return loss.training and torch.is_grad_enabled()


def sum_over_ranks(counts: Tensor) -> int:
    """Sum ``counts`` over the ranks in place; return how many ranks there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    dist.all_reduce(counts)
    return dist.get_world_size()


def count_labels(labels: Tensor, keep: Tensor, num_classes: int) -> Tensor:
    """How often each class occurs among the labels to keep.

    Args:
        labels: integers of any shape, in ``[0, C)`` wherever ``keep`` is true.
        keep: booleans of the same shape.
        num_classes: C.

    Returns:
        ``(C,)`` int64 counts, exact for any number of labels.
    """
    left_out = num_classes
    kept = torch.where(keep, labels, left_out).flatten()
    return kept.bincount(minlength=num_classes + 1)[:num_classes]
