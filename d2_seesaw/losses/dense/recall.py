r"""Recall Loss for semantic segmentation (Tian et al., ICRA 2022, arXiv 2106.14917).

Shapes: see :mod:`d2_seesaw.losses.dense.base`.
"""

import torch
from torch import Tensor

from d2_seesaw.losses._common import count_labels
from d2_seesaw.losses.dense.base import CHUNK_SIZE, DenseLoss

REDUCTIONS = ("pixel_mean", "ref", "weighted_mean")
LOWEST_WEIGHT = 1e-3
"""Weight of a class whose running recall is 1."""


def recall_cross_entropy(
    logits: Tensor, labels: Tensor, *, ignore_index: int = 255, reduction: str = "pixel_mean"
) -> Tensor:
    r"""Compute cross-entropy weighted by the share of each class that the model misses.

    .. math::
        L = \frac1Z \sum_n w_{y_n} \cdot -\log p_{n, y_n}, \quad
        w_c = 1 - R_c = \frac{\mathrm{FN}_c}{\mathrm{TP}_c + \mathrm{FN}_c}

    with the numerator and the denominator of :math:`w_c` at least 1, as in the authors' code. A
    class whose N pixels are all predicted correctly thus keeps the weight 1/N. The weights act as
    constants: no gradient flows through them.

    Args:
        logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
        labels: ``(N,)`` or ``(N, ...)`` integers: a class in ``[0, C)`` or ``ignore_index``.
        ignore_index: label of pixels to ignore; not one of the classes.
        reduction: meaning of Z. ``"pixel_mean"``: the pixels that are not ignored; ``"ref"``: all
            pixels, as in the authors' code; ``"weighted_mean"``: the sum of their weights.

    Returns:
        A scalar in float32, or float64 for float64 logits. A differentiable zero if every
        pixel is ignored.

    Raises:
        ValueError: shapes, labels or the reduction are invalid.
    """
    if logits.dim() < 2:
        raise ValueError(f"logits must have shape (N, C, ...), got {tuple(logits.shape)}")
    loss = RecallLoss(logits.shape[1], ignore_index=ignore_index, reduction=reduction)
    return loss(logits, labels)


class RecallLoss(DenseLoss):
    """Cross-entropy whose class weights are the share of each class that is currently missed.

    See :func:`recall_cross_entropy` for the formula. Without ``momentum`` the loss has no state:
    its weights depend on the batch alone, in training and in evaluation.

    Args:
        num_classes: C.
        ignore_index: label of pixels to ignore; not one of the classes.
        reduction: ``"pixel_mean"``, ``"ref"`` or ``"weighted_mean"``.
        momentum: weight of the old value in a running recall per class, in ``[0, 1)``. If it is
            not 0, the class weights are 1 minus that recall, at least 0.001. The recall starts at
            0, is saved in the buffer ``running_recall``, and changes in training steps only, for
            the classes that occur. Not in the paper.
        chunk_size: pixels to process at a time, which bounds the memory and does not change the
            result; None for all.
        loss_weight: factor on the loss.
        sync: sum counts over the ranks, see :class:`~d2_seesaw.losses.DenseLoss`. The authors' code
            is a single process, which counts the whole batch.

    Raises:
        ValueError: a hyper-parameter is out of range.
    """

    running_recall: Tensor | None
    options = ("reduction", "momentum")

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        reduction: str = "pixel_mean",
        momentum: float = 0.0,
        chunk_size: int | None = CHUNK_SIZE,
        loss_weight: float = 1.0,
        sync: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            ignore_index=ignore_index,
            chunk_size=chunk_size,
            loss_weight=loss_weight,
            sync=sync,
        )
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.reduction = reduction
        self.momentum = momentum
        self.register_buffer("running_recall", torch.zeros(num_classes) if momentum else None)

    def count(self, logits: Tensor, labels: Tensor, is_valid: Tensor) -> Tensor:
        """Return ``(2C + 1,)`` counts: pixels and hits per class, and all pixels."""
        is_hit = logits.argmax(dim=1) == labels
        pixels = count_labels(labels, is_valid, self.num_classes)
        hits = count_labels(labels, is_hit, self.num_classes)
        return torch.cat([pixels, hits, pixels.new_tensor([labels.numel()])])

    def update(self, counts: Tensor) -> None:
        """Move the running recall of the classes in the batch toward their batch recall."""
        if self.running_recall is None:
            return
        pixels, hits, _ = self._split(counts)
        recall = (hits / pixels.clamp(min=1)).to(self.running_recall.dtype)
        moved = self.running_recall.lerp(recall, 1 - self.momentum)
        self.running_recall.copy_(torch.where(pixels > 0, moved, self.running_recall))

    def weigh(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(C,)`` float64 class weights, and the normalizer of the chosen reduction."""
        pixels, hits, all_pixels = self._split(counts)
        if self.running_recall is None:
            weights = (pixels - hits).clamp(min=1).double() / pixels.clamp(min=1)
        else:
            weights = (1 - self.running_recall.double()).clamp(min=LOWEST_WEIGHT)
        normalizer = {
            "pixel_mean": pixels.sum(),
            "ref": all_pixels.sum(),
            "weighted_mean": (weights * pixels).sum(),
        }[self.reduction]
        return weights, normalizer

    def _split(self, counts: Tensor) -> tuple[Tensor, ...]:
        return counts.split([self.num_classes, self.num_classes, 1])
