"""Cross-entropy weighted by inverse class frequency: the usual baseline for long-tailed pixels."""

from collections.abc import Sequence

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


class InverseFrequencyLoss(nn.Module):
    r"""Weighted mean of cross-entropy, :math:`w_c = N_c^{-\gamma}` for a class of N_c pixels.

    All classes then weigh the same in the long run. The mean is that of
    ``torch.nn.CrossEntropyLoss(weight=w)``: divided by the weights of the batch's pixels.

    Shapes: N images or samples, C classes, "..." is H x W or nothing.

    Args:
        num_classes: C.
        class_counts: pixels of each class in the training data. By default the loss counts what it
            is given in training steps, in a buffer that is saved with the model.
        power: :math:`\gamma`; 0.5 weighs by the square root.
        ignore_index: the label of pixels that take no part; not one of the classes.
        chunk_size: pixels to look at at a time, which bounds the memory and gives the same result;
            None for all.
        loss_weight: factor on the loss.
        sync: in a training step, sum counts and weights over the ranks, so that counts, loss and
            (averaged) gradients equal those of one process on the whole batch. All ranks must then
            call the loss equally often.

    Raises:
        ValueError: a hyper-parameter out of range, or counts that are negative or not C.
    """

    class_counts: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        class_counts: Sequence[int] | None = None,
        power: float = 1.0,
        ignore_index: int = 255,
        chunk_size: int | None = CHUNK_SIZE,
        loss_weight: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        check_ignore_index(ignore_index, num_classes)
        if not power >= 0:
            raise ValueError(f"power must be 0 or more, got {power}")
        counts = [0] * num_classes if class_counts is None else [int(n) for n in class_counts]
        if len(counts) != num_classes or min(counts) < 0:
            raise ValueError(
                f"class_counts must be {num_classes} numbers, 0 or more, got {class_counts}"
            )
        check_chunk_size(chunk_size)
        self.num_classes = num_classes
        self.counts_online = class_counts is None
        self.power = power
        self.ignore_index = ignore_index
        self.chunk_size = chunk_size
        self.loss_weight = loss_weight
        self.sync = sync
        self.register_buffer("class_counts", torch.tensor(counts, dtype=torch.int64))

    def extra_repr(self) -> str:
        """Hyper-parameters, for ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, counts_online={self.counts_online}, "
            f"power={self.power}, ignore_index={self.ignore_index}, "
            f"chunk_size={self.chunk_size}, loss_weight={self.loss_weight}, sync={self.sync}"
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count the batch, unless the counts were given, then compare it with its labels.

        Args:
            logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
            labels: ``(N,)`` or ``(N, ...)`` integers in ``[0, C)`` or ``ignore_index``.

        Returns:
            A scalar in float32, or float64 for float64 logits; zero with a graph where every pixel
            is ignored.

        Raises:
            ValueError: shapes or labels that do not fit, naming what was given and expected.
        """
        is_valid = check_dense_batch(logits, labels, self.num_classes, self.ignore_index)
        labels = labels.long()
        weights, normalizer = self._weigh(labels, is_valid)
        total = class_weighted_sum(
            logits,
            labels,
            weights,
            ignore_index=self.ignore_index,
            chunk_size=self.chunk_size,
        )
        return self.loss_weight * total / normalizer.to(total.dtype)

    def _weigh(self, labels: Tensor, is_valid: Tensor) -> tuple[Tensor, Tensor]:
        """``(C,)`` float64 weights, and the sum of the weights of the batch's pixels.

        On several ranks that is the mean per rank, because DDP averages the gradients.
        """
        pixels = count_labels(labels, is_valid, self.num_classes)
        ranks = 1
        if is_training_step(self):
            ranks = sum_over_ranks(pixels) if self.sync else 1
            if self.counts_online:
                self.class_counts += pixels
        counts = self.class_counts.clamp(min=1).double()
        # Relative to the most frequent class: float32 would lose the inverse of 1e12 pixels' power.
        weights = (counts.max() / counts) ** self.power
        normalizer = (weights * pixels).sum()
        return weights, torch.where(normalizer > 0, normalizer, 1) / ranks
