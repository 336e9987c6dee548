r"""Federated form of Seesaw Loss: only classes verified in the image compete.

Shapes in this module:
    R: sampled RoIs in the batch, foreground and background
    C: foreground classes
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_seesaw.losses._common import check_logits
from d2_seesaw.losses.seesaw import SeesawLoss


class FederatedSeesawLoss(SeesawLoss):
    r"""Seesaw Loss for data where "not annotated" does not mean "absent", such as LVIS.

    In the class loss of a RoI, a class competes only if its presence or absence was verified in the
    RoI's image, or if it is the RoI's class. The Seesaw weight of all others is 0:

    .. math::
        L_i = -\log \frac{e^{z_i}}{\sum_{j \in V, j \ne i} M_{ij} C_{ij} e^{z_j} + e^{z_i}}

    for the set V of verified classes, over which the softmax in :math:`C_{ij}` is taken, too. With
    all classes verified, this is :class:`SeesawLoss`. Counts, objectness and scores are unchanged.
    Where background is in the same softmax, it always competes.

    This is our own, not from a paper, and there is no published result. The arguments are those of
    :class:`SeesawLoss`. Needs :class:`~d2_seesaw.modeling.FederatedRCNN` as the model.
    """

    needs_verified_classes = True
    """The box predictor passes ``verified_classes``."""

    def forward(
        self, logits: Tensor, labels: Tensor, verified_classes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Count the batch in a training step, and compute both losses.

        Args:
            logits: ``(R, C + 2)``: C classes, object, background.
            labels: ``(R,)`` integers: a class in ``[0, C)``, C for background, -1 to ignore.
            verified_classes: ``(R, C)`` booleans: the presence or absence of the class was verified
                in the image of the RoI. None if all were.

        Returns:
            The scalars ``loss_cls_classes`` and ``loss_cls_objectness``; differentiable zeros if
            no RoI contributes.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        C = self.num_classes
        if verified_classes is None:
            return super().forward(logits, labels)
        check_logits(logits, labels, self.num_logits, f"{C} classes, then others")
        expected = (len(logits), C)
        if verified_classes.shape != expected or verified_classes.dtype != torch.bool:
            raise ValueError(
                f"verified_classes must be booleans of shape {expected}, got "
                f"{verified_classes.dtype} of shape {tuple(verified_classes.shape)}"
            )
        is_class = torch.arange(C, device=labels.device) == labels.unsqueeze(1)
        is_left_out = ~(verified_classes | is_class)
        if self.num_logits == C + 2:
            # With objectness, only rows with a class have a class loss. Others keep their logits.
            is_left_out &= is_class.any(dim=1, keepdim=True)
        is_left_out = F.pad(is_left_out, (0, self.num_logits - C))
        return super().forward(logits.masked_fill(is_left_out, -torch.inf), labels)
