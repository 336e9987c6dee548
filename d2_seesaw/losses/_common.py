"""Helpers that the losses share: input checks, float32 under autocast, counts over ranks."""

import torch
import torch.distributed as dist
from torch import Tensor

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


def check_labels(labels: Tensor, lowest: int, highest: int, meaning: str) -> Tensor:
    """Check that labels are integers from ``lowest`` to ``highest``, both included.

    Synchronizes with a GPU once, regardless of the number of classes, unless
    :func:`note_label_range` was called. In a compiled graph, it is an assertion that does not
    synchronize.

    Returns:
        The labels as int64.

    Raises:
        ValueError: a label is invalid; the message gives it and the valid range.
        RuntimeError: in a compiled graph on the CPU; the message gives the valid range. On a GPU,
            the process fails with a device-side assertion.
    """
    is_compiling = torch.compiler.is_compiling()
    if not is_compiling and labels.numel() == 0:
        return labels.long()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if is_compiling:
        # A comparison of uint8 with -1 would wrap around.
        labels = labels.long()
        is_valid = ((labels >= lowest) & (labels <= highest)).all()
        message = f"labels must be in [{lowest}, {highest}] ({meaning})"
        torch.ops.aten._assert_async.msg(is_valid, message)
        # An invalid index could fail before the assertion, without naming the range. "Ignored", the
        # lowest label of the losses for RoIs, moreover leaves their counts unchanged.
        return torch.where(is_valid, labels, lowest)
    smallest, largest = _noted_range(labels) or torch.stack(labels.aminmax()).tolist()
    if smallest < lowest or largest > highest:
        wrong = smallest if smallest < lowest else largest
        raise ValueError(f"labels must be in [{lowest}, {highest}] ({meaning}), got {wrong}")
    return labels.long()


_RANGE = "_d2_seesaw_range"


def note_label_range(labels: Tensor, smallest: int, largest: int) -> None:
    """Remember the range of labels that the host has read, so that a check need not read it.

    Args:
        labels: the tensor that is checked later; a change in place makes the note invalid.
        smallest: its smallest element.
        largest: its largest element.
    """
    setattr(labels, _RANGE, (labels._version, smallest, largest))


def _noted_range(labels: Tensor) -> tuple[int, int] | None:
    version, *found = getattr(labels, _RANGE, (None,))
    return (found[0], found[1]) if found and version == labels._version else None


def must_not_wait(tensor: Tensor) -> bool:
    """Return whether reading a value, such as a number of elements, would stall a device."""
    return tensor.is_cuda or torch.compiler.is_compiling()


def check_roi_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Check that the labels of RoIs are classes, ``num_classes`` for background, or ``IGNORED``.

    Returns:
        The labels as int64.

    Raises:
        ValueError, RuntimeError: a label is invalid, see :func:`check_labels`.
    """
    meaning = f"{num_classes} classes, then background; {IGNORED} is ignored"
    return check_labels(labels, IGNORED, num_classes, meaning)


def full_precision(logits: Tensor) -> Tensor:
    """Convert to float32 and keep float64; differentiable."""
    return logits if logits.dtype == torch.float64 else logits.float()


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
    if torch.compiler.is_compiling():  # where the size of bincount's result is unknown
        counts = kept.new_zeros(num_classes + 1)
        return counts.scatter_add(0, kept, torch.ones_like(kept))[:num_classes]
    return kept.bincount(minlength=num_classes + 1)[:num_classes]


def one_hot(labels: Tensor, width: int, like: Tensor) -> Tensor:
    """Return ``(R, width)`` zeros of the dtype of ``like`` with a one at each label of ``(R,)``.

    The row of an ignored sample has its one in the last column.
    """
    index = torch.where(labels == IGNORED, width - 1, labels)
    return like.new_zeros(len(labels), width).scatter_(1, index.unsqueeze(1), 1)
