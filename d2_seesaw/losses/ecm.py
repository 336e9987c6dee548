r"""Effective Class-Margin Loss (Cho and Krähenbühl, ECCV 2022, arXiv 2301.09724).

Shapes in this module:
    R: sampled RoIs in the batch, foreground and background
    C: foreground classes
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_seesaw.losses._common import (
    IGNORED,
    check_logits,
    check_num_classes,
    check_roi_labels,
    full_precision,
    one_hot,
    sum_over_ranks,
)
from d2_seesaw.losses._first_pass import once
from d2_seesaw.losses._given_counts import ClassCounts, GivenClassCounts
from d2_seesaw.losses.equalization_v2 import scores_with_objectness


class ECMLoss(nn.Module):
    r"""Binary cross-entropy with a margin for each class that follows from its frequency.

    .. math::
        L = -\frac{1}{R} \sum_{r} \sum_{c} m_c \left( y_{rc} \log \hat s_{rc}
            + (1 - y_{rc}) \log (1 - \hat s_{rc}) \right), \quad
        \hat s_{rc} = \frac{w_c^+ e^{z_{rc}}}{w_c^+ e^{z_{rc}} + w_c^- e^{-z_{rc}}}

    For a class of :math:`n_c` samples and :math:`n_{\neg c} = \sum_k n_k - n_c` others,

    .. math::
        w_c^+ = \frac{n_c^{1/4} + n_{\neg c}^{1/4}}{n_{\neg c}^{1/4}}, \quad
        w_c^- = \frac{n_c^{1/4} + n_{\neg c}^{1/4}}{n_c^{1/4}}, \quad
        m_c = \alpha_c \log \frac{1 + \alpha_c}{\alpha_c}, \quad
        \alpha_c = \frac{n_{\neg c}}{n_c}

    The inverse weights are the effective margins of positives and negatives. They minimize a bound
    on the error in average precision, in which :math:`m_c` is the factor of class c. There are no
    hyper-parameters to tune. The probability of background is the last logit, a class of its own
    with ``background_ratio`` times the samples of all others.

    It follows that :math:`\hat s = \sigma(2 z + \frac{1}{4} \log (n_c / n_{\neg c}))`, which is how
    it is computed. Scores do not contain the margins. Shifts and :math:`m_c` are computed in
    float64. The authors' float32 rounds :math:`m_c` of the rarest classes of LVIS to 1.11, not 1.

    With ``sync`` and a process group, the number of RoIs is summed over the ranks, so that loss and
    (averaged) gradients equal those of one process on the whole batch. All ranks must then call the
    loss equally often. The authors divide by the RoIs of each rank.

    Args:
        num_classes: C, the number of foreground classes.
        class_counts: training objects of each class, or a function that returns the counts, called
            before the first loss. Zeros count as ones. The authors' file of "image counts" has
            those of objects, too.
        background_ratio: number of background samples per foreground sample. The default was
            measured by the authors on Mask R-CNN.
        loss_weight: factor on the loss.
        sync: sum the number of RoIs over the ranks.

    Raises:
        ValueError: a hyper-parameter is out of range, or ``class_counts`` are invalid.
    """

    def __init__(
        self,
        num_classes: int,
        class_counts: ClassCounts,
        *,
        background_ratio: float = 6.3313,
        loss_weight: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if not background_ratio > 0:
            raise ValueError(f"background_ratio must be positive, got {background_ratio}")
        self.num_classes = num_classes
        self.num_logits = num_classes + 1
        self.background_ratio = background_ratio
        self.loss_weight = loss_weight
        self.sync = sync
        self.training_split = GivenClassCounts(num_classes, class_counts)

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, background_ratio={self.background_ratio}, "
            f"loss_weight={self.loss_weight}, sync={self.sync}"
        )

    def scores(self, logits: Tensor) -> Tensor:
        """Compute detection scores: class probability times the probability of an object.

        Args:
            logits: ``(R, C + 1)``, background last.

        Returns:
            ``(R, C + 1)`` scores, background last; float32, or float64 for float64 logits. Rows do
            not sum to 1.
        """
        return scores_with_objectness(logits)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the loss over the RoIs that are not ignored.

        Args:
            logits: ``(R, C + 1)``, background last.
            labels: ``(R,)`` integers: a class in ``[0, C)``, C for background, -1 to ignore.

        Returns:
            The scalar ``loss_cls``; a differentiable zero if no RoI contributes.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        C = self.num_classes
        check_logits(logits, labels, self.num_logits, f"{C} classes and background")
        labels = check_roi_labels(labels, C)
        is_valid = labels != IGNORED
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            (normalizer,) = once(self, partial(self._count, is_valid))
            shifts, weights = (x.to(logits.dtype) for x in self.shifts_and_weights())
            total = F.binary_cross_entropy_with_logits(
                torch.add(shifts, logits, alpha=2),
                one_hot(labels, C + 1, logits),
                weight=weights * is_valid.unsqueeze(1),
                reduction="sum",
            )
        return {"loss_cls": self.loss_weight * total / normalizer}

    def shifts_and_weights(self) -> tuple[Tensor, Tensor]:
        r"""Return ``(C + 1,)`` float64: the shifts :math:`\log w_c^+ / w_c^-` and :math:`m_c`."""
        counts = self.training_split().clamp(min=1).double()
        counts = torch.cat([counts, self.background_ratio * counts.sum(0, keepdim=True)])
        ratio = (counts.sum() - counts) / counts
        return -ratio.log() / 4, ratio * torch.log1p(1 / ratio)

    def _count(self, is_valid: Tensor, is_training_step: bool) -> tuple[Tensor]:
        """Return the number of RoIs; on several ranks, its mean, because DDP averages gradients."""
        rois = is_valid.sum()
        ranks = sum_over_ranks(rois) if self.sync and is_training_step else 1
        return (rois.clamp(min=1) / ranks,)
