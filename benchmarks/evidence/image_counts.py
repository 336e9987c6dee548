"""Seesaw Loss with fixed class counts, for the evidence."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from d2_seesaw.losses import SeesawLoss


class ImageCountsSeesawLoss(SeesawLoss):
    """Seesaw Loss whose factors use the number of training images of each class from the start.

    Args:
        num_classes: C.
        class_counts: a function that returns C numbers of images.
        options: other arguments of ``SeesawLoss``.
    """

    def __init__(
        self, num_classes: int, *, class_counts: Callable[[], Sequence[int]], **options: Any
    ) -> None:
        super().__init__(num_classes, **options)
        counts = torch.tensor([*class_counts(), 0])
        self.class_counts.copy_(counts)

    def count(self, labels: Tensor, is_training_step: bool) -> tuple[Tensor, ...]:
        """Return the normalizer, and the counts of images."""
        normalizer, *_ = super().count(labels, is_training_step=False)
        return normalizer, self.class_counts[:-1]
