r"""Recall Loss for semantic segmentation (Tian et al., ICRA 2022, arXiv 2106.14917).

Shapes in this module:
    N: images, or samples of a classifier
    C: classes
    ...: H x W for images, nothing for a classifier

A "pixel" is one label: a pixel of an image, or a sample of a classifier.
"""

import torch
from torch import Tensor, nn

from d2_seesaw.losses._common import (
    check_dense_batch,
    check_ignore_index,
    count_labels,
    is_training_step,
    sum_over_ranks,
)
from d2_seesaw.losses.dense import CHUNK_SIZE, check_chunk_size, class_weighted_sum

REDUCTIONS = ("pixel_mean", "ref", "weighted_mean")
LOWEST_WEIGHT = 1e-3
"""With a running recall, the weight of a class that is always found."""


def recall_cross_entropy(
    logits: Tensor, labels: Tensor, *, ignore_index: int = 255, reduction: str = "pixel_mean"
) -> Tensor:
    r"""Cross-entropy weighted by how much of each class this very batch misses.

    .. math::
        L = \frac1Z \sum_n w_{y_n} \cdot -\log p_{n, y_n}, \quad
        w_c = 1 - R_c = \frac{\mathrm{FN}_c}{\mathrm{TP}_c + \mathrm{FN}_c}

    with the numerator and the denominator of :math:`w_c` at least 1, as in the authors' code: a
    class found in all its N pixels keeps the weight 1/N, an absent one has none to weigh. The
    weights act as constants: no gradient flows through them.

    Args:
        logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
        labels: ``(N,)`` or ``(N, ...)`` integers: a class in ``[0, C)`` or ``ignore_index``.
        ignore_index: the label of pixels that take no part; not one of the classes.
        reduction: what Z is. ``"pixel_mean"``: the pixels that are not ignored; ``"ref"``: all
            pixels, as in the authors' code; ``"weighted_mean"``: the sum of the weights.

    Returns:
        A scalar in float32, or float64 for float64 logits; zero with a graph where every pixel is
        ignored.

    Raises:
        ValueError: shapes, labels or a reduction that do not fit, naming what was expected.
    """
    if logits.dim() < 2:
        raise ValueError(f"logits must have shape (N, C, ...), got {tuple(logits.shape)}")
    loss = RecallLoss(logits.shape[1], ignore_index=ignore_index, reduction=reduction)
    return loss(logits, labels)


class RecallLoss(nn.Module):
    """Cross-entropy whose class weights are the share of each class that is missed right now.

    See :func:`recall_cross_entropy` for the formula. Without ``momentum`` the loss has no state:
    its weights follow from the batch, in training as in evaluation.

    Args:
        num_classes: C.
        ignore_index: the label of pixels that take no part; not one of the classes.
        reduction: ``"pixel_mean"``, ``"ref"`` or ``"weighted_mean"``.
        momentum: share of the old value in a running recall per class, in ``[0, 1)``. Where it is
            not 0, the weights are 1 minus that recall, at least 0.001; it starts at 0, lies in the
            saved buffer ``running_recall`` and changes in training steps only, for the classes
            that occur. Not in the paper.
        chunk_size: pixels to look at at a time, which bounds the memory and gives the same result;
            None for all.
        loss_weight: factor on the loss.
        sync: sum pixels and hits over the ranks in a training step, so that loss and (averaged)
            gradients equal those of one process on the whole batch. All ranks must then call the
            loss equally often. The authors' code counts on each rank alone.

    Raises:
        ValueError: a hyper-parameter out of range.
    """

    running_recall: Tensor | None

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
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        check_ignore_index(ignore_index, num_classes)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        check_chunk_size(chunk_size)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.momentum = momentum
        self.chunk_size = chunk_size
        self.loss_weight = loss_weight
        self.sync = sync
        self.register_buffer("running_recall", torch.zeros(num_classes) if momentum else None)

    def extra_repr(self) -> str:
        """Hyper-parameters, for ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, ignore_index={self.ignore_index}, "
            f"reduction={self.reduction!r}, momentum={self.momentum}, "
            f"chunk_size={self.chunk_size}, loss_weight={self.loss_weight}, sync={self.sync}"
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weigh the classes by what this batch misses of them, then compare it with its labels.

        Args:
            logits: ``(N, C)`` or ``(N, C, ...)``.
            labels: ``(N,)`` or ``(N, ...)`` integers in ``[0, C)`` or ``ignore_index``.

        Returns:
            The loss, a scalar.

        Raises:
            ValueError: shapes or labels that do not fit, naming what was given and expected.
        """
        is_valid = check_dense_batch(logits, labels, self.num_classes, self.ignore_index)
        labels = labels.long()
        weights, normalizer = self._weigh(logits.detach(), labels, is_valid)
        total = class_weighted_sum(
            logits,
            labels,
            weights,
            ignore_index=self.ignore_index,
            chunk_size=self.chunk_size,
        )
        return self.loss_weight * total / normalizer.to(total.dtype)

    @torch.no_grad()
    def _count(self, logits: Tensor, labels: Tensor, is_valid: Tensor) -> tuple[Tensor, Tensor]:
        """``(C,)`` pixels of each class and, of these, the pixels that are found."""
        is_hit = logits.argmax(dim=1) == labels
        return (
            count_labels(labels, is_valid, self.num_classes),
            count_labels(labels, is_hit, self.num_classes),
        )

    def _weigh(self, logits: Tensor, labels: Tensor, is_valid: Tensor) -> tuple[Tensor, Tensor]:
        """``(C,)`` float64 weights of the classes, and what to divide the weighted sum by.

        On several ranks that is the mean per rank, because DDP averages the gradients.
        """
        pixels, hits = self._count(logits, labels, is_valid)
        counts = torch.stack([pixels, hits])
        all_pixels, ranks = torch.tensor(labels.numel(), device=labels.device), 1
        if is_training_step(self):
            if self.sync:
                ranks = sum_over_ranks(counts)
                sum_over_ranks(all_pixels)
            self._update(*counts)
        pixels, hits = counts
        if self.running_recall is None:
            weights = (pixels - hits).clamp(min=1).double() / pixels.clamp(min=1)
        else:
            weights = (1 - self.running_recall.double()).clamp(min=LOWEST_WEIGHT)
        normalizer = {
            "pixel_mean": pixels.sum(),
            "ref": all_pixels,
            "weighted_mean": (weights * pixels).sum(),
        }[self.reduction]
        return weights, torch.where(normalizer > 0, normalizer, 1).double() / ranks

    def _update(self, pixels: Tensor, hits: Tensor) -> None:
        """Move the running recall of the classes that occur towards that of the batch."""
        if self.running_recall is None:
            return
        recall = (hits / pixels.clamp(min=1)).to(self.running_recall.dtype)
        moved = self.running_recall.lerp(recall, 1 - self.momentum)
        self.running_recall.copy_(torch.where(pixels > 0, moved, self.running_recall))
