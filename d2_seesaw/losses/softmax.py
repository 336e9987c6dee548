"""Softmax cross-entropy with the interface of the long-tail losses: the baseline."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_seesaw.losses._common import (
    IGNORED,
    check_labels,
    check_logits,
    check_num_classes,
    full_precision,
)


class SoftmaxLoss(nn.Module):
    """Cross-entropy over C classes and background, as in Fast R-CNN.

    Shapes: R sampled RoIs, C foreground classes.

    Args:
        num_classes: C, the number of foreground classes.
        loss_weight: factor on the loss.

    Raises:
        ValueError: ``num_classes`` is less than 1.
    """

    def __init__(self, num_classes: int, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.num_classes = num_classes
        self.num_logits = num_classes + 1
        self.loss_weight = loss_weight

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        return f"num_classes={self.num_classes}, loss_weight={self.loss_weight}"

    def scores(self, logits: Tensor) -> Tensor:
        """Map ``(R, C + 1)`` logits to probabilities, background last, in at least float32."""
        with torch.autocast(logits.device.type, enabled=False):
            return full_precision(logits).softmax(dim=1)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the mean cross-entropy over the RoIs that are not ignored.

        Args:
            logits: ``(R, C + 1)``, background last.
            labels: ``(R,)`` integers: a class in ``[0, C)``, C for background, -1 to ignore.

        Returns:
            The scalar ``loss_cls``; a differentiable zero for an empty batch.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        C = self.num_classes
        check_logits(logits, labels, self.num_logits, f"{C} classes and background")
        meaning = f"{C} classes, then background; {IGNORED} is ignored"
        labels = check_labels(labels, IGNORED, C, meaning)
        with torch.autocast(logits.device.type, enabled=False):
            total = F.cross_entropy(
                full_precision(logits), labels, ignore_index=IGNORED, reduction="sum"
            )
        normalizer = (labels != IGNORED).sum().clamp(min=1)
        return {"loss_cls": self.loss_weight * total / normalizer}
