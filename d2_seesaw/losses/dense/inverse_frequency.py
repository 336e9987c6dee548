"""Cross-entropy weighted by inverse class frequency: the usual baseline for long-tailed pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from d2_seesaw.losses.dense.base import CHUNK_SIZE, DenseLoss


class InverseFrequencyLoss(DenseLoss):
    r"""Weighted mean of cross-entropy, :math:`w_c = N_c^{-\gamma}` for a class of N_c pixels.

    With :math:`\gamma = 1`, all classes have the same total weight in the long run. The mean is
    that of ``torch.nn.CrossEntropyLoss(weight=w)``: it is divided by the sum of the weights of the
    batch's pixels.

    Args:
        num_classes: C.
        class_counts: pixels of each class in the training data. By default, the loss counts the
            pixels of its training steps in a buffer that is saved with the model.
        power: :math:`\gamma`; 0.5 weighs by the inverse square root.
        ignore_index: label of pixels to ignore; not one of the classes.
        chunk_size: pixels to process at a time, which bounds the memory and does not change the
            result; None for all.
        loss_weight: factor on the loss.
        sync: sum counts over the ranks, see :class:`~d2_seesaw.losses.DenseLoss`.

    Raises:
        ValueError: a hyper-parameter is out of range, or the counts are not C numbers >= 0.
    """

    class_counts: Tensor
    options = ("counts_online", "power")

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
        super().__init__(
            num_classes,
            ignore_index=ignore_index,
            chunk_size=chunk_size,
            loss_weight=loss_weight,
            sync=sync,
        )
        if not power >= 0:
            raise ValueError(f"power must be 0 or more, got {power}")
        counts = [0] * num_classes if class_counts is None else [int(n) for n in class_counts]
        if len(counts) != num_classes or min(counts) < 0:
            raise ValueError(
                f"class_counts must be {num_classes} numbers, 0 or more, got {class_counts}"
            )
        self.counts_online = class_counts is None
        self.power = power
        self.register_buffer("class_counts", torch.tensor(counts, dtype=torch.int64))

    def update(self, counts: Tensor) -> None:
        """Add the pixels of the batch to the class counts, unless these were given."""
        if self.counts_online:
            self.class_counts += counts

    def weigh(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(C,)`` float64 weights, and the sum of the weights of the batch's pixels."""
        seen = self.class_counts.clamp(min=1).double()
        # Relative to the most frequent class: a power of 1e12 pixels may underflow in float32.
        weights = (seen.max() / seen) ** self.power
        return weights, (weights * counts).sum()
