"""Cross-entropy with a weight per class, summed over pixels in bounded memory."""

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_seesaw.losses._common import full_precision
from d2_seesaw.losses.dense import sum_in_chunks


def class_weighted_sum(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    ignore_index: int,
    chunk_size: int | None,
) -> Tensor:
    """Sum of ``weights[label]`` times cross-entropy over the pixels that are not ignored.

    Args:
        logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
        labels: ``(N,)`` or ``(N, ...)`` int64.
        weights: ``(C,)`` of the classes.
        ignore_index: the label of pixels that take no part.
        chunk_size: pixels to look at at a time; None for all.

    Returns:
        A scalar in float32, whatever autocast says, or float64 for float64 logits.
    """

    def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
        logits = full_precision(logits)
        weight = weights.to(logits.dtype)
        return F.cross_entropy(
            logits, labels, weight=weight, ignore_index=ignore_index, reduction="sum"
        )

    with torch.autocast(logits.device.type, enabled=False):
        return sum_in_chunks(loss_sum, logits, labels, chunk_size)
