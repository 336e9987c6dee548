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
        """Map ``(R, L)`` logits to ``(R, C + 1)`` probabilities, background last.

        Rows of losses with a sigmoid per class need not sum to 1.
        """
        ...

    def __call__(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute scalar losses by name from ``(R, L)`` logits and ``(R,)`` labels.

        A label is a class in ``[0, C)``, ``C`` for background, or ``-1`` for a sample to ignore.
        """
        ...


@runtime_checkable
class VerifiedClassificationLoss(Protocol):
    """A classification loss that uses which classes were verified in the image of each sample.

    The box predictor passes ``verified_classes`` only to losses that have this attribute.

    Attributes:
        needs_verified_classes: always true.
    """

    num_classes: int
    num_logits: int
    needs_verified_classes: bool

    def scores(self, logits: Tensor) -> Tensor:
        """Map logits to scores, as :class:`ClassificationLoss`."""
        ...

    def __call__(
        self, logits: Tensor, labels: Tensor, verified_classes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute losses as :class:`ClassificationLoss`.

        ``verified_classes`` are ``(R, C)`` booleans: the presence or absence of the class was
        verified in the image of the sample. None if all classes were.
        """
        ...
