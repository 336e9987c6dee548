"""Interface between a classifier, such as a box predictor, and its classification loss."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class ClassificationLoss(Protocol):
    """A loss that defines the number of logits, their conversion to scores, and their loss.

    Shapes: R samples (RoIs), C foreground classes, L logits per sample.

    Attributes:
        num_classes: C.
        num_logits: L, the number of outputs that the classifier must have.
    """

    num_classes: int
    num_logits: int

    def scores(self, logits: Tensor) -> Tensor:
        """Map ``(R, L)`` logits to ``(R, C + 1)`` probabilities, background last."""
        ...

    def __call__(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute scalar losses by name from ``(R, L)`` logits and ``(R,)`` labels.

        A label is a class in ``[0, C)``, ``C`` for background, or ``-1`` for a sample to ignore.
        """
        ...
