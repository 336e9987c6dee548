"""Softmax cross-entropy with the interface of the long-tail losses: the baseline."""

from torch import Tensor

from d2_seesaw.losses._first_pass import Tensors
from d2_seesaw.losses._roi_softmax import RoISoftmaxLoss


class SoftmaxLoss(RoISoftmaxLoss):
    """Mean cross-entropy over C classes and background, as in Fast R-CNN.

    With ``objectness``, a softmax over the classes and an objectness, as in ``SeesawLoss`` with
    ``p=0`` and ``q=0`` (Seesaw Loss, table 8, "CE + objectness").

    Shapes: R sampled RoIs, C foreground classes.

    Args:
        num_classes: C, the number of foreground classes.
        objectness: whether background is separated from the classes by an objectness; then C + 2
            logits instead of C + 1, with background last in both cases.
        loss_weight: factor on the losses.

    Raises:
        ValueError: ``num_classes`` is less than 1.
    """

    def __init__(
        self, num_classes: int, *, objectness: bool = False, loss_weight: float = 1.0
    ) -> None:
        # Each rank has its own mean, as in Detectron2.
        super().__init__(num_classes, objectness=objectness, loss_weight=loss_weight, sync=False)

    def first_pass(self, labels: Tensor) -> Tensors:
        """Return the number of RoIs, which no kind of activation checkpointing changes."""
        return self.count(labels, is_training_step=False)
