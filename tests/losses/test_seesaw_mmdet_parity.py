"""Parity of Seesaw Loss with recorded results of the authors' implementation in mmdet.

``tests/golden/seesaw_mmdet_3_3_0.json`` holds the results of ``SeesawLoss`` in mmdet 3.3.0 (with
mmengine 0.10.7 and mmcv-lite 2.1.0, float32, on the CPU) for the inputs from ``steps_of``. For each
step it holds both losses (``avg_factor`` is the number of RoIs), the gradient of their sum and the
activation. The latter two are multiplied by a random vector, so that one number per RoI represents
its row. For each case it holds mmdet's ``cum_samples`` after the last step.

Shapes: R sampled RoIs, C classes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d2_seesaw.losses import SeesawLoss

GOLDEN = Path(__file__).parents[1] / "golden" / "seesaw_mmdet_3_3_0.json"
CASES = json.loads(GOLDEN.read_text())["cases"]
every_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


class Step(NamedTuple):
    """Inputs of one step, and the vector that its gradient and scores are multiplied by."""

    logits: Tensor  # (R, C + 2)
    labels: Tensor  # (R,)
    probe: Tensor  # (C + 2,)


def steps_of(case: dict[str, Any]) -> Iterator[Step]:
    """Yield the inputs of a case. NumPy guarantees that this legacy generator never changes."""
    rng = np.random.RandomState(case["seed"])
    C, R = case["num_classes"], case["rois"]
    for _ in case["steps"]:
        logits = case["logit_scale"] * rng.standard_normal((R, C + 2))
        labels = rng.randint(0, rng.randint(1, C + 1, size=R))  # lower classes are more frequent
        labels[rng.uniform(size=R) < case["background"]] = C
        probe = rng.standard_normal(C + 2)
        yield Step(
            torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), torch.tensor(probe)
        )


def start_counts_of(case: dict[str, Any]) -> Tensor:
    """Return the initial counts: 1 to a million if the case starts from counts, else zeros."""
    size = case["num_classes"] + 1
    if not case["starts_from_counts"]:
        return torch.zeros(size, dtype=torch.int64)
    return torch.tensor(10 ** np.random.RandomState(case["seed"]).randint(0, 7, size=size))


class Outcome(NamedTuple):
    """Results of one step from this project and from mmdet."""

    losses: dict[str, float]
    gradient: Tensor  # (R,): gradient times probe
    scores: Tensor  # (R,): scores times probe
    counts: list[int]
    recorded: dict[str, Any]


def replay(case: dict[str, Any]) -> Iterator[Outcome]:
    loss = SeesawLoss(case["num_classes"], **case["options"])
    loss.class_counts += start_counts_of(case)
    for recorded, step in zip(case["steps"], steps_of(case), strict=True):
        logits = step.logits.requires_grad_()
        losses = loss(logits, step.labels)
        (gradient,) = torch.autograd.grad(sum(losses.values()), logits)
        yield Outcome(
            losses={name: value.item() for name, value in losses.items()},
            gradient=gradient.double() @ step.probe,
            scores=loss.scores(logits.detach()).double() @ step.probe[1:],
            counts=loss.class_counts.tolist(),
            recorded=recorded,
        )


@every_case
def test_losses_match_mmdet(case):
    for outcome in replay(case):
        expected = {name: outcome.recorded[name] for name in outcome.losses}
        assert outcome.losses == pytest.approx(expected, rel=1e-5, abs=1e-7)


@every_case
def test_gradients_match_mmdet(case):
    for outcome in replay(case):
        expected = torch.tensor(outcome.recorded["gradient_times_probe"], dtype=torch.float64)
        assert_close(outcome.gradient, expected, rtol=1e-5, atol=1e-6)


@every_case
def test_scores_match_mmdet(case):
    for outcome in replay(case):
        expected = torch.tensor(outcome.recorded["activation_times_probe"], dtype=torch.float64)
        assert_close(outcome.scores, expected, rtol=1e-5, atol=1e-6)


@every_case
def test_counts_match_mmdet(case):
    *_, last = replay(case)
    assert last.counts == case["counts_after"]


def test_cases_cover_the_important_regimes():
    names = {case["name"] for case in CASES}
    assert names == {
        "one class",
        "few classes",
        "no background",
        "no foreground",
        "large logits",
        "many counts",
        "other hyper-parameters",
        "mitigation alone",
        "compensation alone",
        "LVIS",
        "LVIS with counts",
    }
