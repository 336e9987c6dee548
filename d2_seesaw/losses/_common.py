"""What losses share: checks of logits and labels, float32 under autocast, counts over ranks."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

IGNORED = -1
"""The label of samples that take no part in the loss, as in Detectron2's matchers."""


def check_logits(logits: Tensor, labels: Tensor, num_logits: int, meaning: str) -> None:
    """Refuse logits whose shape fits neither the loss nor the labels.

    Args:
        logits: expected to be ``(R, num_logits)``.
        labels: expected to be ``(R,)``.
        num_logits: the width the loss needs.
        meaning: how that width comes about, for the message.

    Raises:
        ValueError: naming the shape that was given and the one that was expected.
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
    """Refuse logits that do not hold C classes in their second dimension, one for each label.

    Args:
        logits: expected to be ``(N, C, ...)``: ``(N, C)``, or ``(N, C, H, W)`` for images.
        labels: expected to be ``(N, ...)``.
        num_classes: C.

    Raises:
        ValueError: naming the shape that was given and the one that was expected.
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


def check_ignore_index(ignore_index: int, num_classes: int) -> None:
    """Refuse to ignore one of the classes, as the usual 255 would among 1,000 of them.

    Raises:
        ValueError: naming the label and the number of classes.
    """
    if 0 <= ignore_index < num_classes:
        raise ValueError(
            f"ignore_index is {ignore_index}, which is one of the {num_classes} classes: no pixel "
            "of it would ever be learnt. Give a label that is no class, such as -1"
        )


def check_dense_batch(
    logits: Tensor, labels: Tensor, num_classes: int, ignore_index: int
) -> Tensor:
    """Refuse a batch that does not fit; tell which of its labels take part in the loss.

    Args:
        logits: expected to be ``(N, C, ...)``.
        labels: expected to be ``(N, ...)`` integers in ``[0, C)`` or ``ignore_index``.
        num_classes: C.
        ignore_index: the label of pixels that take no part.

    Returns:
        Booleans of the labels' shape.

    Raises:
        ValueError: as :func:`check_dense_logits` and :func:`check_labels`.
    """
    check_dense_logits(logits, labels, num_classes)
    is_valid = labels != ignore_index
    known = torch.where(is_valid, labels, torch.zeros_like(labels))
    check_labels(known, 0, num_classes - 1, f"{num_classes} classes; {ignore_index} is ignored")
    return is_valid


def check_labels(labels: Tensor, lowest: int, highest: int, meaning: str) -> None:
    """Refuse labels that are not integers from ``lowest`` to ``highest``, both included.

    Costs one host synchronisation on a GPU, whatever the number of classes.

    Raises:
        ValueError: naming the offending label and the legal range.
    """
    if labels.numel() == 0:
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    smallest, largest = torch.stack(labels.aminmax()).tolist()
    if smallest < lowest or largest > highest:
        wrong = smallest if smallest < lowest else largest
        raise ValueError(f"labels must lie in [{lowest}, {highest}] ({meaning}), got {wrong}")


def full_precision(logits: Tensor) -> Tensor:
    """``logits`` in float32, or in float64 where they already are; gradients flow back."""
    return logits if logits.dtype == torch.float64 else logits.float()


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
