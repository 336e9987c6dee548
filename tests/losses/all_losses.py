"""Each loss with each of its options that change what is counted."""

from collections.abc import Callable

from torch import nn

from d2_seesaw.losses import (
    InverseFrequencyLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
    SeesawLoss,
    SoftmaxLoss,
)

C = 4
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "seesaw": lambda: SeesawLoss(C),
    "softmax": lambda: SoftmaxLoss(C),
    "dense seesaw": lambda: SeesawCrossEntropyLoss(C),
    "dense seesaw in chunks": lambda: SeesawCrossEntropyLoss(C, chunk_size=5),
    "sampled": lambda: SeesawCrossEntropyLoss(C, sample_size=7),
    "recall": lambda: RecallLoss(C),
    "running recall": lambda: RecallLoss(C, momentum=0.5),
    "inverse frequency": lambda: InverseFrequencyLoss(C),
}
