r"""Logit adjustment and Balanced Softmax: cross-entropy with logits shifted by the class prior.

With :math:`\pi_j` the share of class j in the training split, the logit-adjusted softmax
cross-entropy (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10) is

.. math::
    L_i = -\log \frac{e^{z_i + \tau \log \pi_i}}{\sum_j e^{z_j + \tau \log \pi_j}}

Balanced Softmax (Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS
2020) is the case :math:`\tau = 1`. Scores are those of the plain logits, which then estimate what
balanced classes would give.

Shapes in this module:
    R: sampled RoIs in the batch
    P: samples that have a class
    C: foreground classes
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_seesaw.losses._common import check_dense_logits, check_labels, full_precision
from d2_seesaw.losses._given_counts import ClassCounts, GivenClassCounts
from d2_seesaw.losses._roi_softmax import RoISoftmaxLoss


def logit_adjusted_cross_entropy(
    logits: Tensor, labels: Tensor, class_counts: Tensor, *, tau: float = 1.0
) -> Tensor:
    """Compute the logit-adjusted softmax cross-entropy of each sample.

    Args:
        logits: ``(P, C)``, or ``(P, C, ...)`` for dense predictions, of any floating dtype.
        labels: ``(P,)``, or ``(P, ...)``, class indices in ``[0, C)``.
        class_counts: ``(C,)`` samples of each class in the training split; zeros count as ones.
        tau: strength of the adjustment; 1 is Balanced Softmax, 0 is cross-entropy.

    Returns:
        Losses of the labels' shape in float32, or float64 for float64 logits.

    Raises:
        ValueError: shapes, labels or ``tau`` are invalid.
    """
    _check_tau(tau)
    if logits.dim() < 2:
        raise ValueError(f"logits must have shape (P, C, ...), got {tuple(logits.shape)}")
    num_classes = logits.shape[1]
    check_dense_logits(logits, labels, num_classes)
    labels = check_labels(labels, 0, num_classes - 1, f"{num_classes} classes")
    if class_counts.shape != (num_classes,):
        raise ValueError(
            f"class_counts must have shape ({num_classes},) to match logits "
            f"{tuple(logits.shape)}, got {tuple(class_counts.shape)}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        logits = full_precision(logits)
        shift = tau * log_prior(class_counts).to(logits.dtype)
        shift = shift.view(-1, *[1] * (logits.dim() - 2))
        return F.cross_entropy(logits + shift, labels, reduction="none")


def log_prior(class_counts: Tensor) -> Tensor:
    r"""Return :math:`\log(C \pi_j)` of the ``(C,)`` counts in float64; zeros count as ones.

    Relative to equal classes: equal counts give zeros. The factor C changes a softmax over the
    classes alone in no way, and decides how classes compare with background.
    """
    counts = class_counts.clamp(min=1).double()
    return (counts / counts.mean()).log()


def _check_tau(tau: float) -> None:
    if not tau >= 0:
        raise ValueError(f"tau must be 0 or more, got {tau}")


class LogitAdjustmentLoss(RoISoftmaxLoss):
    r"""Logit-adjusted softmax cross-entropy of RoIs; Balanced Softmax for ``tau=1``.

    Both papers classify images, which have no background. (For detection, the authors of Balanced
    Softmax train a sigmoid for each class.) Here the classes alone are adjusted, in one of two
    forms:

    - with ``objectness``, the adjusted softmax is over the C classes on the foreground RoIs, and
      background has a separate objectness, as in Seesaw Loss;
    - without it, one softmax is over the C classes and background, and the adjustment of background
      is zero: classes are shifted by :math:`\tau \log(C \pi_j)`, so equal counts give plain
      cross-entropy.

    Args:
        num_classes: C, the number of foreground classes.
        class_counts: C counts of the training split, or a function without arguments that returns
            them, such as ``d2_seesaw.data.training_class_counts(...)``, called before the first
            loss. Zeros count as ones.
        tau: strength of the adjustment.
        objectness: see above.
        loss_weight: factor on the losses.
        sync: divide by the number of RoIs on all ranks, so that losses and (averaged) gradients
            equal those of one process on the whole batch.

    Raises:
        ValueError: ``tau`` is negative, or the counts are not C whole numbers.
    """

    options = ("tau",)

    def __init__(
        self,
        num_classes: int,
        class_counts: ClassCounts,
        *,
        tau: float = 1.0,
        objectness: bool = True,
        loss_weight: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__(num_classes, objectness=objectness, loss_weight=loss_weight, sync=sync)
        _check_tau(tau)
        self.tau = tau
        self.training_split = GivenClassCounts(num_classes, class_counts)

    def adjust(self, logits: Tensor, labels: Tensor, *statistics: Tensor) -> Tensor:
        """Add the scaled log prior to the logits of the classes."""
        shift = (self.tau * log_prior(self.training_split())).to(logits.dtype)
        return logits + (shift if self.objectness else F.pad(shift, (0, 1)))
