"""Inputs of the recorded results of other authors' losses with C classes and background."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Step(NamedTuple):
    """Inputs of one step, and the vector that its gradient and scores are multiplied by."""

    logits: Tensor  # (R, C + 1)
    labels: Tensor  # (R,)
    probe: Tensor  # (C + 1,)


def steps_of(case: dict[str, Any]) -> Iterator[Step]:
    """Yield the inputs of a case. NumPy guarantees that this legacy generator never changes."""
    rng = np.random.RandomState(case["seed"])
    C, R = case["num_classes"], case["rois"]
    for _ in range(case["steps"]):
        logits = case["logit_scale"] * rng.standard_normal((R, C + 1))
        labels = rng.randint(0, rng.randint(1, C + 1, size=R))  # lower classes are more frequent
        labels[rng.uniform(size=R) < case["background"]] = C
        probe = rng.standard_normal(C + 1)
        yield Step(
            torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), torch.tensor(probe)
        )


def class_counts_of(case: dict[str, Any]) -> list[int]:
    """Return class counts from 1 to 10,000."""
    rng = np.random.RandomState(case["seed"])
    return (10 ** rng.uniform(0, 4, size=case["num_classes"])).astype(int).tolist()
