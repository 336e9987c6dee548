r"""Federated loss: sigmoid cross-entropy over a random subset of the classes.

Zhou et al., "Probabilistic two-stage detection" (CenterNet2, arXiv 2103.07461, section 5), and
Detectron2's ``use_sigmoid_ce`` and ``use_fed_loss``.

Shapes in this module:
    R: sampled RoIs in the batch, foreground and background
    C: foreground classes
"""

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
)
from d2_seesaw.losses._first_pass import once
from d2_seesaw.losses._given_counts import ClassCounts, GivenClassCounts


class FederatedLoss(nn.Module):
    r"""Sigmoid cross-entropy, averaged over the RoIs and summed over a subset of the classes.

    .. math::
        L = -\frac{1}{R} \sum_{r=1}^{R} \sum_{c \in S}
            y_{rc} \log \sigma(z_{rc}) + (1 - y_{rc}) \log (1 - \sigma(z_{rc}))

    The set S has all classes of the batch's RoIs. If these are fewer than ``num_sampled``,
    background included, others are drawn without replacement until there are as many, with
    probabilities proportional to :math:`n_c^p` for a class of n_c training images. A background RoI
    has no class, so that it is a negative example of every class in S.

    As in Detectron2, the logits are C classes and a last one that is not used and gets no gradient.
    So checkpoints of Detectron2's federated models fit.

    As in Detectron2, each rank draws for its own RoIs, and nothing is summed over the ranks. The
    draw uses PyTorch's generator of the logits' device. It gives the classes that
    ``torch.multinomial`` gives, without its two synchronizations with a GPU. A trainer that seeds
    this generator in each step, such as :class:`~d2_seesaw.engine.Trainer`, thus resumes exactly.

    Args:
        num_classes: C, the number of foreground classes.
        class_counts: training images of each class, or a function that returns the counts, called
            before the first loss. Required for sampling. A class without images is only used if a
            RoI has it.
        num_sampled: size of S. None uses all classes: plain sigmoid cross-entropy.
        power: exponent p of the counts.
        loss_weight: factor on the loss.

    Raises:
        ValueError: a hyper-parameter is out of range, or ``class_counts`` are missing or invalid.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        class_counts: ClassCounts | None = None,
        num_sampled: int | None = 50,
        power: float = 0.5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if num_sampled is not None and num_sampled < 1:
            raise ValueError(f"num_sampled must be at least 1 or None, got {num_sampled}")
        if not power >= 0:
            raise ValueError(f"power must be 0 or more, got {power}")
        if num_sampled is not None and class_counts is None:
            raise ValueError(
                f"num_sampled={num_sampled} needs class_counts, the training images of each class; "
                "num_sampled=None uses all classes without them"
            )
        self.num_classes = num_classes
        self.num_logits = num_classes + 1
        self.num_sampled = num_sampled
        self.power = power
        self.loss_weight = loss_weight
        self.training_split = None
        if num_sampled is not None and class_counts is not None:
            self.training_split = GivenClassCounts(num_classes, class_counts)

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, num_sampled={self.num_sampled}, "
            f"power={self.power}, loss_weight={self.loss_weight}"
        )

    def scores(self, logits: Tensor) -> Tensor:
        """Compute the probability of each class, independently of the others.

        Args:
            logits: ``(R, C + 1)``; the last one is not used.

        Returns:
            ``(R, C + 1)`` scores in float32, or float64 for float64 logits: the sigmoids, then 1
            minus the highest of them as background. Rows do not sum to 1.
        """
        with torch.autocast(logits.device.type, enabled=False):
            classes = full_precision(logits)[:, :-1].sigmoid()
            return torch.cat([classes, 1 - classes.amax(dim=1, keepdim=True)], dim=1)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Draw the classes, and compute the loss over the RoIs that are not ignored.

        Args:
            logits: ``(R, C + 1)``; the last one is not used.
            labels: ``(R,)`` integers: a class in ``[0, C)``, C for background, -1 to ignore.

        Returns:
            The scalar ``loss_cls``; a differentiable zero if no RoI contributes.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        C = self.num_classes
        check_logits(logits, labels, self.num_logits, f"{C} classes and one that is not used")
        labels = check_roi_labels(labels, C)
        is_valid = labels != IGNORED
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            weights = is_valid.unsqueeze(1).to(logits.dtype)
            if self.num_sampled is not None and self.training_split is not None:
                drawn = self._draw(labels, self.training_split(), self.num_sampled)
                # Drawn again in a recomputation, which may use other random numbers.
                (is_used,) = once(self, lambda _: (drawn,))
                weights = weights * is_used
            targets = one_hot(labels, C + 1, logits)
            # As in Detectron2, to the last bit: weights act before the sum.
            total = F.binary_cross_entropy_with_logits(
                logits[:, :C], targets[:, :C], weight=weights, reduction="sum"
            )
        normalizer = is_valid.sum().clamp(min=1)
        return {"loss_cls": self.loss_weight * total / normalizer}

    def _draw(self, labels: Tensor, counts: Tensor, size: int) -> Tensor:
        """Return ``(C,)`` booleans: the classes to use, drawn anew in each call."""
        C = self.num_classes
        present = labels.new_zeros(C + 2, dtype=torch.bool)  # ignored, classes, background
        present = present.index_fill(0, labels - IGNORED, True)[1:]
        weights = counts.float() ** self.power
        weights = F.pad(weights.masked_fill(counts == 0, 0), (0, 1)).masked_fill(present, 0)
        # torch.multinomial without replacement: the largest ratios to exponential variables.
        ratios, drawn = (weights / torch.empty_like(weights).exponential_()).topk(min(size, C + 1))
        missing = size - present.sum()
        is_drawn = (torch.arange(len(drawn), device=drawn.device) < missing) & (ratios > 0)
        return present.scatter(0, drawn, present[drawn] | is_drawn)[:C]
