r"""Balanced group softmax, BAGS (Li et al., CVPR 2020, arXiv 2006.10408).

Classes with similar numbers of training instances form a group, and compete with each other only.
Group :math:`\mathcal{G}_0` is background against foreground. Each other group n has one more
output, "others", which stands for the classes of the other groups and for background. A RoI is
trained in all groups:

.. math::
    L = -\sum_{n=0}^{N} \frac{1}{W_n} \sum_r w_{nr} \log p^n_{t_n(r)}(r), \quad
    p^n = \mathrm{softmax}(z_j : j \in \mathcal{G}_n)

Its target :math:`t_n` is its class in the group of the class, and "others" elsewhere. The weight
:math:`w_{nr}` is 1 in group 0 and for the classes of the group. Of its "others", a random sample of
:math:`\beta` per RoI of the group's classes has weight 1, and the rest 0; :math:`W_n` is the sum of
the weights. A group without a RoI of its classes has no loss.

The score of a class is its probability in its group times the probability of foreground in group 0.
Probabilities of different groups are not related, so scores of a RoI need not sum to 1.

Shapes in this module:
    R: sampled RoIs in the batch
    C: foreground classes
    G: groups without group 0
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2_seesaw.losses._common import (
    IGNORED,
    check_logits,
    check_num_classes,
    check_roi_labels,
    full_precision,
    sum_over_ranks,
)
from d2_seesaw.losses._first_pass import Tensors, once
from d2_seesaw.losses._given_counts import ClassCounts, GivenClassCounts
from d2_seesaw.losses._roi_softmax import objectness_cross_entropy


class BalancedGroupSoftmaxLoss(nn.Module):
    """Balanced group softmax over groups of classes by their training instances.

    The logits are C classes, then the "others" of the G groups from rare to frequent, then
    *object*, then *background*. So a class has the same logit whatever its group.

    The sample of "others" is drawn from PyTorch's default generator of the device, in validation
    too. With ``sync`` and a process group, RoIs are counted over the ranks, each of which draws
    its share of the sample. Losses and (averaged) gradients then equal those of one process on the
    whole batch, up to the choice of the sample.

    Args:
        num_classes: C, the number of foreground classes.
        class_counts: instances of the C classes in the training split, or a function without
            arguments that returns them, such as ``d2_seesaw.data.training_class_counts(...)``,
            called before the first loss. The counts are saved with the model.
        bounds: ascending numbers of instances from which on a class is in the next group.
        others_ratio: number of "others" for each RoI of a group's classes.
        loss_weight: factor on the losses.
        sync: count RoIs over the ranks.

    Raises:
        ValueError: an argument is out of range, or the counts are not C whole numbers.
    """

    def __init__(
        self,
        num_classes: int,
        class_counts: ClassCounts,
        *,
        bounds: Sequence[int] = (10, 100, 1000),
        others_ratio: float = 8.0,
        loss_weight: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if not bounds or any(low >= high for low, high in pairwise((0, *bounds))):
            raise ValueError(f"bounds must be ascending numbers of at least 1, got {list(bounds)}")
        if not others_ratio >= 0:
            raise ValueError(f"others_ratio must be 0 or more, got {others_ratio}")
        self.bounds = tuple(bounds)
        self.num_groups = len(self.bounds) + 1
        self.num_classes = num_classes
        self.num_logits = num_classes + self.num_groups + 2
        self.others_ratio = others_ratio
        self.loss_weight = loss_weight
        self.sync = sync
        self.training_split = GivenClassCounts(num_classes, class_counts)

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, bounds={self.bounds}, "
            f"others_ratio={self.others_ratio}, loss_weight={self.loss_weight}, sync={self.sync}"
        )

    def groups(self) -> Tensor:
        """Return the ``(C,)`` group of each class in ``[0, G)``, 0 for the rarest classes."""
        counts = self.training_split() if self.training else self.training_split.known()
        return torch.stack([counts >= bound for bound in self.bounds]).sum(dim=0)

    def scores(self, logits: Tensor) -> Tensor:
        """Compute detection probabilities: probability in the group times that of foreground.

        Args:
            logits: ``(R, C + G + 2)``.

        Returns:
            ``(R, C + 1)`` numbers in ``[0, 1]``, background last; float32, or float64 for float64
            logits. The classes of a group and its "others" sum to the probability of foreground.
        """
        with torch.autocast(logits.device.type, enabled=False):
            classes, others, objectness = self._split(full_precision(logits))
            groups = self.groups()
            log_sums = group_log_sum_exp(classes, others, groups)
            in_group = (classes - log_sums.index_select(1, groups)).exp()
            is_object, is_background = objectness.softmax(dim=1).split(1, dim=1)
            return torch.cat([in_group * is_object, is_background], dim=1)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the loss of each group.

        Args:
            logits: ``(R, C + G + 2)``: C classes, the "others" of the groups, object, background.
            labels: ``(R,)`` integers: a class in ``[0, C)``, C for background, -1 to ignore.

        Returns:
            The scalars ``loss_cls_objectness`` of group 0, and ``loss_cls_group1`` to
            ``loss_cls_groupG`` from rare to frequent; differentiable zeros if no RoI contributes.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        C, G = self.num_classes, self.num_groups
        meaning = f"{C} classes, then {G} others, object and background"
        check_logits(logits, labels, self.num_logits, meaning)
        labels = check_roi_labels(labels, C)
        with torch.autocast(logits.device.type, enabled=False):
            classes, others, objectness = self._split(full_precision(logits))
            self.training_split()
            groups = self.groups()
            column = labels.clamp(0, C - 1)
            has_class = (labels != IGNORED) & (labels != C)
            group_of_roi = torch.where(has_class, groups[column], IGNORED)
            own = group_of_roi[:, None] == torch.arange(G, device=labels.device)
            weights, normalizers = once(self, partial(self._sample, own, labels != IGNORED))
            targets = torch.where(own, classes.gather(1, column[:, None]), others)
            losses = group_log_sum_exp(classes, others, groups) - targets
            totals = [
                objectness_cross_entropy(objectness, labels, C),
                *(losses * weights).sum(dim=0).unbind(),
            ]
        names = ["loss_cls_objectness", *(f"loss_cls_group{n + 1}" for n in range(G))]
        return {
            name: self.loss_weight * total / normalizer
            for name, total, normalizer in zip(names, totals, normalizers, strict=True)
        }

    def _split(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        classes, others, objectness = logits.split([self.num_classes, self.num_groups, 2], dim=1)
        return classes, others, objectness

    def _sample(self, own: Tensor, is_valid: Tensor, is_training_step: bool) -> Tensors:
        """Draw the "others" of each group.

        Args:
            own: ``(R, G)`` whether the class of a RoI is in a group.
            is_valid: ``(R,)`` false for RoIs to ignore.
            is_training_step: whether ranks may communicate.

        Returns:
            ``(R, G)`` weights of 0 and 1, and the ``(1 + G,)`` normalizers of all groups: the mean
            sum of the weights per rank, because DDP averages gradients.
        """
        ranks, rank = 1, 0
        if self.sync and is_training_step and dist.is_available() and dist.is_initialized():
            ranks, rank = dist.get_world_size(), dist.get_rank()
        rois = own.new_zeros(ranks, 1 + self.num_groups, dtype=torch.int64)
        rois[rank] = torch.cat([is_valid.sum()[None], own.sum(dim=0)])
        if ranks > 1:
            sum_over_ranks(rois)
        all_rois, all_own = rois.sum(dim=0).split([1, self.num_groups])
        others = rois[:, :1] - rois[:, 1:]  # (ranks, G)
        all_others = all_rois - all_own
        number = (all_own * self.others_ratio).floor().clamp(max=all_others).long()
        # A rank draws in proportion to its "others": the shares are whole and sum to the number.
        bounds = torch.stack([others[:rank].sum(dim=0), others[: rank + 1].sum(dim=0)])
        first, last = bounds * number // all_others.clamp(min=1)
        drawn = _draw(is_valid[:, None] & ~own, last - first)
        normalizers = torch.cat([all_rois, all_own + number]).clamp(min=1) / ranks
        return (own | drawn).to(normalizers.dtype), normalizers


def _draw(candidates: Tensor, number: Tensor) -> Tensor:
    """Draw RoIs without replacement, in each group on its own, without a GPU sync.

    Args:
        candidates: ``(R, G)`` booleans.
        number: ``(G,)`` RoIs to draw; at most as many as there are candidates.

    Returns:
        ``(R, G)`` booleans.
    """
    keys = torch.rand(candidates.shape, device=candidates.device)
    place = torch.where(candidates, keys, 2.0).argsort(dim=0).argsort(dim=0)
    return place < number


def group_log_sum_exp(classes: Tensor, others: Tensor, groups: Tensor) -> Tensor:
    """Compute the log of the sum of exponentials of each group and its "others".

    Args:
        classes: ``(R, C)`` logits.
        others: ``(R, G)`` logits.
        groups: ``(C,)`` group of each class.

    Returns:
        ``(R, G)``.
    """
    members = [groups == group for group in range(others.shape[1])]
    with torch.no_grad():
        # Adding a row of zeros and -inf is several times as fast as masking.
        rows = [torch.where(member, 0.0, -torch.inf).to(classes.dtype) for member in members]
        highest = torch.stack([(classes + row).amax(dim=1) for row in rows], dim=1)
        shift = torch.maximum(highest, others)
    powers = (classes - shift.index_select(1, groups)).exp_()
    # Not index_add: on a GPU, its sums differ from run to run.
    sums = torch.stack([(powers * member).sum(dim=1) for member in members], dim=1)
    return shift + (sums + (others - shift).exp()).log()
