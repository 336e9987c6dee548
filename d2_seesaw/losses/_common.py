"""Helpers that the losses share: input checks, float32 under autocast, counts over ranks."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

IGNORED = -1
"""Label of samples to ignore, as in Detectron2's matchers."""


def check_num_classes(num_classes: int) -> None:
    """Check that there is at least one class.

    Raises:
        ValueError: there is none.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")


def check_logits(logits: Tensor, labels: Tensor, num_logits: int, meaning: str) -> None:
    """Check the shape of a classifier's logits and labels.

    Args:
        logits: expected to be ``(R, num_logits)``.
        labels: expected to be ``(R,)``.
        num_logits: number of logits per sample that the loss needs.
        meaning: explanation of that number, for the message.

    Raises:
        ValueError: a shape differs; the message gives both.
    """
    if logits.dim() != 2 or logits.shape[1] != num_logits:
        raise ValueError(
            f"logits must have shape (R, {num_logits}), {meaning}, got {tuple(logits.shape)}"
        )
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must have shape ({logits.shape[0]},) to match logits "
            f"{tuple(logits.shape)}, got {tuple(labels.shape)}"
        )


def check_dense_logits(logits: Tensor, labels: Tensor, num_classes: int) -> None:
    """Check that logits hold C classes in their second dimension, and one label per pixel.

    Args:
        logits: expected to be ``(N, C, ...)``: ``(N, C)``, or ``(N, C, H, W)`` for images.
        labels: expected to be ``(N, ...)``.
        num_classes: C.

    Raises:
        ValueError: a shape differs; the message gives both.
    """
    if logits.dim() < 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"logits must have shape (N, {num_classes}, ...), one per class, "
            f"got {tuple(logits.shape)}"
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected:
        raise ValueError(
            f"labels must have shape {expected} to match logits {tuple(logits.shape)}, "
            f"got {tuple(labels.shape)}"
        )


def check_labels(labels: Tensor, lowest: int, highest: int, meaning: str) -> None:
    """Check that labels are integers from ``lowest`` to ``highest``, both included.

    Synchronizes with a GPU once, regardless of the number of classes.

    Raises:
        ValueError: a label is invalid; the message gives it and the valid range.
    """
    if labels.numel() == 0:
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    smallest, largest = torch.stack(labels.aminmax()).tolist()
    if smallest < lowest or largest > highest:
        wrong = smallest if smallest < lowest else largest
        raise ValueError(f"labels must be in [{lowest}, {highest}] ({meaning}), got {wrong}")


def full_precision(logits: Tensor) -> Tensor:
    """Convert to float32 and keep float64; differentiable."""
    return logits if logits.dtype == torch.float64 else logits.float()


def is_training_step(loss: nn.Module) -> bool:
    """Return whether ``loss`` may update its statistics: training mode with gradients enabled.

    A validation loss under ``torch.no_grad()`` thus changes nothing and does not communicate.
    """
    return loss.training and torch.is_grad_enabled()


def is_first_pass(loss: nn.Module) -> bool:
    """Return whether a training step is not the recomputation of an earlier one.

    Activation checkpointing calls a loss again in the backward pass. In its reentrant form, the
    earlier call was without gradients, so that the second one is the first training step.
    """
    if torch.compiler.is_compiling():  # which does not recompute losses
        return True
    if torch._C._current_graph_task_id() == -1:  # not in a backward pass
        loss.__dict__["_has_forward_steps"] = True
        return True
    return not loss.__dict__.get("_has_forward_steps", False)


def sum_over_ranks(counts: Tensor) -> int:
    """Sum ``counts`` over the ranks in place; return the number of ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    dist.all_reduce(counts)
    return dist.get_world_size()


def count_labels(labels: Tensor, keep: Tensor, num_classes: int) -> Tensor:
    """Count the labels of each class where ``keep`` is true.

    Args:
        labels: integers of any shape, in ``[0, C)`` where ``keep`` is true.
        keep: booleans of the same shape.
        num_classes: C.

    Returns:
        ``(C,)`` int64 counts, exact for any number of labels.
    """
    left_out = num_classes
    kept = torch.where(keep, labels, left_out).flatten()
    return kept.bincount(minlength=num_classes + 1)[:num_classes]
