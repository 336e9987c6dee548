"""Equation of Recall Loss (arXiv 2106.14917), one pixel and one class at a time.

Slow and literal on purpose. The lower bound of 1 on both counts is the authors' implementation.
"""

import math

from torch import Tensor

from tests.reference.seesaw import softmax


def weights(
    logits: list[list[float]], labels: list[int], num_classes: int, ignored: int
) -> list[float]:
    """Return 1 - recall for each class; ``logits`` holds one list of C numbers per pixel."""
    found, missed = [0] * num_classes, [0] * num_classes
    for z, y in zip(logits, labels, strict=True):
        if y != ignored:
            hits = found if z.index(max(z)) == y else missed
            hits[y] += 1
    return [max(missed[c], 1) / max(found[c] + missed[c], 1) for c in range(num_classes)]


def recall_loss(
    logits: Tensor, labels: Tensor, reduction: str, ignored: int = 255
) -> tuple[float, list[list[float]]]:
    """Return the loss and its gradient, as one list of C per pixel; the weights are constant.

    Args:
        logits: ``(M, C)``.
        labels: ``(M,)``.
        reduction: the divisor, ``"pixel_mean"``, ``"ref"`` or ``"weighted_mean"``.
        ignored: the label of ignored pixels.
    """
    num_classes = logits.shape[1]
    rows, classes = logits.tolist(), labels.tolist()
    w = weights(rows, classes, num_classes, ignored)
    valid = [y for y in classes if y != ignored]
    divisor = {
        "pixel_mean": len(valid),
        "ref": len(classes),
        "weighted_mean": sum(w[y] for y in valid),
    }[reduction]
    loss, gradient = 0.0, []
    for z, y in zip(rows, classes, strict=True):
        if y == ignored:
            gradient.append([0.0] * num_classes)
            continue
        p = softmax(z)
        loss -= w[y] * math.log(p[y]) / divisor
        gradient.append([w[y] * (p[j] - (j == y)) / divisor for j in range(num_classes)])
    return loss, gradient
