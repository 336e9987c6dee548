"""Each loss with each of its options that change what is computed or counted.

A new loss for RoIs is one more entry of ``ROI_LOSSES``. It then has to meet the claims of
``test_roi_losses.py``, ``test_compile.py``, ``test_activation_checkpoint.py``,
``tests/distributed/test_roi_loss_ranks.py`` and ``tests/gpu/test_losses.py``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from d2_seesaw.losses import (
    BalancedGroupSoftmaxLoss,
    ECMLoss,
    EqualizationLossV2,
    FederatedLoss,
    FederatedSeesawLoss,
    InverseFrequencyLoss,
    LogitAdjustmentLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
    SeesawLoss,
    SoftmaxLoss,
)

C = 4


def long_tail(num_classes: int) -> list[int]:
    """Return counts of a long tail that ends with a class that was never seen."""
    return [2000 // 8 ** min(c, 4) for c in range(num_classes - 1)] + [0]


def _bags(num_classes: int, others_ratio: float) -> nn.Module:
    counts = long_tail(num_classes)
    return BalancedGroupSoftmaxLoss(num_classes, counts, others_ratio=others_ratio)


def _adjusted(num_classes: int, objectness: bool) -> nn.Module:
    return LogitAdjustmentLoss(num_classes, long_tail(num_classes), objectness=objectness)


def _with_counts(kind: Callable[..., nn.Module], num_classes: int, **options: Any) -> nn.Module:
    return kind(num_classes, class_counts=long_tail(num_classes), **options)


# For RoIs: from the number of classes; without random numbers.
ROI_LOSSES: dict[str, Callable[[int], nn.Module]] = {
    "seesaw": SeesawLoss,
    "seesaw with background": partial(SeesawLoss, objectness=False),
    "softmax": SoftmaxLoss,
    "softmax with objectness": partial(SoftmaxLoss, objectness=True),
    "balanced softmax": partial(_adjusted, objectness=True),
    "logit adjustment": partial(_adjusted, objectness=False),
    "balanced group softmax": partial(_bags, others_ratio=1e9),
    "federated": partial(_with_counts, FederatedLoss, num_sampled=10**6),
    "equalization v2": EqualizationLossV2,
    "effective class margin": partial(_with_counts, ECMLoss),
    "federated seesaw": FederatedSeesawLoss,
}
LOSSES: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(new_loss, C) for name, new_loss in ROI_LOSSES.items()},
    "sampled groups": partial(_bags, C, others_ratio=0.5),
    "dense seesaw": lambda: SeesawCrossEntropyLoss(C),
    "dense seesaw in chunks": lambda: SeesawCrossEntropyLoss(C, chunk_size=5),
    "sampled": lambda: SeesawCrossEntropyLoss(C, sample_size=7),
    "recall": lambda: RecallLoss(C),
    "running recall": lambda: RecallLoss(C, momentum=0.5),
    "inverse frequency": lambda: InverseFrequencyLoss(C),
}
