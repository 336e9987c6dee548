r"""Equalization Loss v2 (Tan et al., CVPR 2021, arXiv 2012.08548).

Shapes in this module:
    R: sampled RoIs in the batch, foreground and background
    C: foreground classes
"""

from collections.abc import Callable
from functools import partial
from typing import Any

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

RATIO_AT_START = 100.0
"""Ratio of the gradients before the first training step: it leaves both weights at 1."""


class EqualizationLossV2(nn.Module):
    r"""Sigmoid cross-entropy whose positive and negative gradients are balanced for each class.

    .. math::
        L = -\frac{1}{R} \sum_{r} \sum_{c}
            q_c \, y_{rc} \log \sigma(z_{rc}) + r_c (1 - y_{rc}) \log (1 - \sigma(z_{rc})), \quad
        r_c = f(g_c), \quad q_c = 1 + \alpha (1 - f(g_c)), \quad
        f(x) = \frac{1}{1 + e^{-\gamma (x - \mu)}}

    where :math:`g_c` is the ratio of the accumulated gradients of the logit of class c. Over the
    RoIs of all earlier training steps,

    .. math::
        g_c = \frac{\sum q_c \, y_{rc} (1 - \sigma(z_{rc}))}{\sum r_c (1 - y_{rc}) \sigma(z_{rc})}

    with the weights of the step in question (equations 4 to 8). The logits are C classes and an
    *objectness branch*, the probability of background, with weights of 1 (section 3.3).

    The sums are ``positive_gradients`` and ``negative_gradients``, buffers of length C that are
    saved with the model and stay float64 after ``.half()``. They change only in training mode with
    gradients enabled. Activation checkpointing around the loss adds a batch once.

    With ``sync`` and a process group, gradients and the number of RoIs are summed over the ranks,
    so that state, loss and (averaged) gradients equal those of one process on the whole batch. All
    ranks must then call the loss equally often. The authors sum the gradients, too, but divide by
    the RoIs of each rank.

    Args:
        num_classes: C, the number of foreground classes.
        gamma: steepness of the mapping f.
        mu: ratio where f is 1/2.
        alpha: strength of the additional weight of positives; 0 turns it off.
        loss_weight: factor on the loss.
        sync: sum the gradients over the ranks.

    Raises:
        ValueError: a hyper-parameter is out of range.
    """

    positive_gradients: Tensor
    negative_gradients: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        loss_weight: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if not alpha >= 0:
            raise ValueError(f"alpha must be 0 or more, got {alpha}")
        self.num_classes = num_classes
        self.num_logits = num_classes + 1
        self.gamma = gamma
        self.mu = mu
        self.alpha = alpha
        self.loss_weight = loss_weight
        self.sync = sync
        for name in ("positive_gradients", "negative_gradients"):
            self.register_buffer(name, torch.zeros(num_classes, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Convert or move the module, with the sums in float64 whatever the new dtype."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(keep_dtype, recurse)

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, gamma={self.gamma}, mu={self.mu}, "
            f"alpha={self.alpha}, loss_weight={self.loss_weight}, sync={self.sync}"
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
        """Compute the loss with the ratios so far, and add the batch to them in a training step.

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
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            collect = partial(self._weigh_and_collect, logits.detach(), labels)
            positive, negative, normalizer = once(self, collect)
            targets = one_hot(labels, C + 1, logits)
            is_valid = (labels != IGNORED).to(logits.dtype)
            column = torch.where(labels == IGNORED, C, labels)
            weights = is_valid.unsqueeze(1) * negative
            weights.scatter_(1, column.unsqueeze(1), (is_valid * positive[column]).unsqueeze(1))
            total = F.binary_cross_entropy_with_logits(
                logits, targets, weight=weights, reduction="sum"
            )
        return {"loss_cls": self.loss_weight * total / normalizer}

    def class_weights(self) -> tuple[Tensor, Tensor]:
        """Return the ``(C,)`` float64 weights q of positives and r of negatives."""
        positive, negative = self.positive_gradients, self.negative_gradients
        has_started = (positive + negative).any()
        ratio = torch.where(has_started, positive / (negative + 1e-10), RATIO_AT_START)
        mapped = torch.sigmoid(self.gamma * (ratio - self.mu))
        return 1 + self.alpha * (1 - mapped), mapped

    def _weigh_and_collect(
        self, logits: Tensor, labels: Tensor, is_training_step: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weigh the batch, then add its gradients in a training step.

        Returns:
            ``(C + 1,)`` weights of positives and of negatives, and the normalizer of the loss. On
            several ranks, that is the mean number of RoIs per rank, because DDP averages gradients.
        """
        C = self.num_classes
        positive, negative = self.class_weights()
        rois, ranks = (labels != IGNORED).sum(), 1
        if is_training_step:
            positive_sums, negative_sums = gradients_of_sigmoids(logits, labels)
            batch = torch.cat(
                [positive * positive_sums[:C], negative * negative_sums[:C], rois.view(1)]
            )
            ranks = sum_over_ranks(batch) if self.sync else 1
            self.positive_gradients += batch[:C]
            self.negative_gradients += batch[C:-1]
            rois = batch[-1]
        # The objectness branch has weights of 1.
        positive, negative = (
            F.pad(w, (0, 1), value=1.0).to(logits.dtype) for w in (positive, negative)
        )
        return positive, negative, (rois.clamp(min=1) / ranks).to(logits.dtype)


def gradients_of_sigmoids(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the absolute gradients of sigmoid cross-entropy over the RoIs, for each logit.

    Args:
        logits: ``(R, L)``, detached.
        labels: ``(R,)`` columns, -1 to ignore.

    Returns:
        ``(L,)`` float64 sums over positives and over negatives.
    """
    probabilities = logits.sigmoid()
    column = labels.clamp(min=0).unsqueeze(1)
    is_valid = labels != IGNORED
    missing = (1 - probabilities.gather(1, column).squeeze(1)).double() * is_valid
    positive = missing.new_zeros(logits.shape[1]).index_add_(0, column.squeeze(1), missing)
    probabilities.scatter_(1, column, 0).mul_(is_valid.unsqueeze(1))
    return positive, probabilities.sum(dim=0).double()


def scores_with_objectness(logits: Tensor) -> Tensor:
    """Multiply the sigmoids of C classes by 1 minus the sigmoid of background, the last logit.

    Args:
        logits: ``(R, C + 1)``.

    Returns:
        ``(R, C + 1)`` scores, background last, in at least float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        classes, background = full_precision(logits).sigmoid().split([logits.shape[1] - 1, 1], 1)
        return torch.cat([classes * (1 - background), background], dim=1)
