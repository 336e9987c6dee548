"""What a box predictor, or any classifier, needs to know about its classification loss."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class ClassificationLoss(Protocol):
    """A loss that owns its logits: how many there are, what they mean and what they cost.

    Shapes: R samples (RoIs), C foreground classes, L logits per sample.

    Attributes:
        num_classes: C.
        num_logits: L, the width the classifier must have.
    """

    num_classes: int
    num_logits: int

    def scores(self, logits: Tensor) -> Tensor:
        """Map ``(R, L)`` logits to ``(R, C + 1)`` probabilities, background last."""
        ...

    def __call__(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalar losses by name, for ``(R, L)`` logits and ``(R,)`` labels.

        A label is a class in ``[0, C)``, ``C`` for background or ``-1`` for a sample to ignore.
        """
        ...
