"""Softmax losses of RoIs, with background as a class or with a separate objectness.

Shapes in this module:
    R: sampled RoIs in the batch, foreground and background
    P: foreground RoIs among them
    C: foreground classes

Losses are divided by R, as in the authors' implementation of Seesaw Loss, so that the weight of the
class loss does not depend on the number of sampled foreground RoIs.
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
    must_not_wait,
    sum_over_ranks,
)
from d2_seesaw.losses._first_pass import Tensors, once


class RoISoftmaxLoss(nn.Module):
    """Base class: cross-entropy of logits that a subclass may adjust.

    With objectness, the logits are C classes, then *object*, then *background* (Seesaw Loss,
    section 3.3): a softmax over the classes on the foreground RoIs, and one over the last two on
    all RoIs. Without it, they are C classes, then background, in one softmax.

    Args:
        num_classes: C.
        objectness: whether background is separated from the classes by an objectness.
        loss_weight: factor on the losses.
        sync: sum the number of RoIs, and what else a subclass counts, over the ranks.

    Raises:
        ValueError: ``num_classes`` is less than 1.
    """

    options: tuple[str, ...] = ()
    """Attributes of a subclass that ``print(model)`` shows."""

    def __init__(
        self, num_classes: int, *, objectness: bool, loss_weight: float, sync: bool
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.num_classes = num_classes
        self.num_logits = num_classes + (2 if objectness else 1)
        self.objectness = objectness
        self.loss_weight = loss_weight
        self.sync = sync

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        names = ("num_classes", *self.options, "objectness", "loss_weight", "sync")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def adjust(self, logits: Tensor, labels: Tensor, *statistics: Tensor) -> Tensor:
        """Return the logits of the cross-entropy.

        Args:
            logits: ``(P, C)`` with objectness, else ``(R, C + 1)``, in full precision.
            labels: ``(P,)`` or ``(R,)`` indices into the columns; 0 for RoIs to ignore.
            statistics: what :meth:`count` returned after the normalizer.
        """
        return logits

    def count(self, labels: Tensor, is_training_step: bool) -> Tensors:
        """Return the normalizer of the losses, and the statistics that a subclass needs.

        On several ranks, the normalizer is the mean number of RoIs per rank, because DDP averages
        gradients.
        """
        rois = (labels != IGNORED).sum()
        ranks = sum_over_ranks(rois) if self.sync and is_training_step else 1
        return (rois.clamp(min=1) / ranks,)

    def first_pass(self, labels: Tensor) -> Tensors:
        """Return what :meth:`count` returns, once under activation checkpointing."""
        return once(self, partial(self.count, labels))

    def scores(self, logits: Tensor) -> Tensor:
        """Compute detection probabilities.

        With objectness, they are class probability times objectness (Seesaw Loss, eq. 9).

        Args:
            logits: ``(R, C + 2)`` with objectness, else ``(R, C + 1)``.

        Returns:
            ``(R, C + 1)`` probabilities that sum to 1, background last; float32, or float64 for
            float64 logits.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            if not self.objectness:
                return logits.softmax(dim=1)
            classes, objectness = logits.split([self.num_classes, 2], dim=1)
            is_object, is_background = objectness.softmax(dim=1).split(1, dim=1)
            return torch.cat([classes.softmax(dim=1) * is_object, is_background], dim=1)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses; a subclass that counts the labels counts them in a training step.

        Args:
            logits: ``(R, C + 2)`` with objectness: C classes, object, background; else
                ``(R, C + 1)``: C classes, background.
            labels: ``(R,)`` integers: a class in ``[0, C)``, C for background, -1 to ignore.

        Returns:
            The scalars ``loss_cls_classes`` and ``loss_cls_objectness`` with objectness, else
            ``loss_cls``; differentiable zeros if no RoI contributes.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        C = self.num_classes
        others = "object and background" if self.objectness else "background"
        check_logits(logits, labels, self.num_logits, f"{C} classes, then {others}")
        labels = check_roi_labels(labels, C)
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            normalizer, *statistics = self.first_pass(labels)
            if self.objectness:
                foreground = self._foreground(logits[:, :C], labels)
                totals = {
                    "loss_cls_classes": self._cross_entropy(*foreground, *statistics),
                    "loss_cls_objectness": objectness_cross_entropy(logits[:, C:], labels, C),
                }
            else:
                totals = {"loss_cls": self._cross_entropy(logits, labels, *statistics)}
        # Not (weight / normalizer) * loss: the quotient is float32 and would round float64 losses.
        return {name: self.loss_weight * total / normalizer for name, total in totals.items()}

    def _cross_entropy(self, logits: Tensor, labels: Tensor, *statistics: Tensor) -> Tensor:
        """Sum the cross-entropy of the adjusted logits over the RoIs that are not ignored.

        Args:
            logits: as for :meth:`adjust`.
            labels: ``(P,)`` or ``(R,)`` indices into the columns, -1 to ignore.
            statistics: as for :meth:`adjust`.
        """
        adjusted = self.adjust(logits, labels.clamp(min=0), *statistics)
        return F.cross_entropy(adjusted, labels, ignore_index=IGNORED, reduction="sum")

    def _foreground(self, class_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Select the foreground RoIs; on a GPU and in a compiled graph, ignore the others."""
        is_foreground = (labels != IGNORED) & (labels != self.num_classes)
        if must_not_wait(labels):  # for the number of foreground RoIs
            return class_logits, torch.where(is_foreground, labels, IGNORED)
        foreground = is_foreground.nonzero().squeeze(1)
        return class_logits[foreground], labels[foreground]


def objectness_cross_entropy(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the sum of the cross-entropy of object against background.

    Args:
        logits: ``(R, 2)``: object, background.
        labels: ``(R,)`` checked labels: a class in ``[0, C)``, C for background, -1 to ignore.
        num_classes: C.
    """
    target = torch.where(labels == IGNORED, IGNORED, (labels == num_classes).long())
    return F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
