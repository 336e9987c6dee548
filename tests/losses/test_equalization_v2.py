"""Tests of Equalization Loss v2: the paper's equations, the authors' results, the state.

``tests/golden/equalization_v2_authors.json`` holds the results of the authors' code for the inputs
of ``tests/losses/recorded.py``. Shapes: R sampled RoIs, C classes.
"""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw.losses import EqualizationLossV2
from tests.losses.recorded import steps_of

CASES = json.loads(
    (Path(__file__).parents[1] / "golden" / "equalization_v2_authors.json").read_text()
)["cases"]
every_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
C = 4


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """Return three batches of float64 logits (R, C + 1) and labels; class 3 is never present."""
    labels = [[0, 4, 2, 0, 4, 1, 4], [4, 0, 0, 1, 4], [2, 2, 4, 4, 0, 1]]
    return [(2 * torch.randn(len(y), 5, dtype=torch.float64), torch.tensor(y)) for y in labels]


@every_case
def test_results_match_the_authors(case):
    loss = EqualizationLossV2(case["num_classes"], **case["options"])
    size = case["num_classes"]
    for recorded, step in zip(case["recorded"], steps_of(case), strict=True):
        logits = step.logits.requires_grad_()
        (value,) = loss(logits, step.labels).values()
        (gradient,) = torch.autograd.grad(value, logits)
        found = {
            "loss_cls": value.detach().double(),
            "gradient_times_probe": gradient.double() @ step.probe,
            "scores_times_probe": loss.scores(logits.detach()).double() @ step.probe,
            "positive_times_probe": loss.positive_gradients @ step.probe[:size],
            "negative_times_probe": loss.negative_gradients @ step.probe[:size],
        }
        expected = {k: torch.tensor(v, dtype=torch.float64) for k, v in recorded.items()}
        assert_close(found, expected, rtol=2e-5, atol=2e-5)
    if case["positive_gradients"] is not None:
        expected = torch.tensor(case["positive_gradients"], dtype=torch.float64)
        assert_close(loss.positive_gradients, expected, rtol=1e-5, atol=1e-6)


def literal_steps(batches, gamma, mu, alpha):
    """Yield the loss, its gradient and the sums of each step, with the equations as loops."""
    positive, negative = [0.0] * C, [0.0] * C
    for step, (logits, labels) in enumerate(batches):
        q, r = [1.0] * (C + 1), [1.0] * (C + 1)  # objectness keeps a weight of 1
        for j in range(C):
            ratio = 100.0 if step == 0 else positive[j] / (negative[j] + 1e-10)
            r[j] = 1 / (1 + math.exp(-gamma * (ratio - mu)))
            q[j] = 1 + alpha * (1 - r[j])
        total, gradient = 0.0, torch.zeros_like(logits)
        for i, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
            for j, z in enumerate(row):
                p = 1 / (1 + math.exp(-z))
                if j == label:
                    total -= q[j] * math.log(p)
                    gradient[i, j] = q[j] * (p - 1) / len(labels)
                else:
                    total -= r[j] * math.log(1 - p)
                    gradient[i, j] = r[j] * p / len(labels)
                if j < C:
                    positive[j] += q[j] * (1 - p) if j == label else 0.0
                    negative[j] += 0.0 if j == label else r[j] * p
        yield total / len(labels), gradient, list(positive), list(negative)


@pytest.mark.parametrize(("gamma", "mu", "alpha"), [(12.0, 0.8, 4.0), (3.0, 0.2, 0.0)])
def test_loss_gradient_and_sums_match_the_papers_equations(batches, gamma, mu, alpha):
    loss = EqualizationLossV2(C, gamma=gamma, mu=mu, alpha=alpha)
    expected = literal_steps(batches, gamma, mu, alpha)
    for (logits, labels), (total, gradient, positive, negative) in zip(
        batches, expected, strict=True
    ):
        (value,) = loss(logits.requires_grad_(), labels).values()
        assert value.item() == pytest.approx(total, rel=1e-9)
        assert_close(torch.autograd.grad(value, logits)[0], gradient, rtol=1e-9, atol=1e-12)
        assert loss.positive_gradients.tolist() == pytest.approx(positive, rel=1e-12)
        assert loss.negative_gradients.tolist() == pytest.approx(negative, rel=1e-12)


def test_the_first_step_is_sigmoid_cross_entropy(batches):
    logits, labels = batches[0]
    (value,) = EqualizationLossV2(C)(logits, labels).values()
    targets = torch.nn.functional.one_hot(labels, C + 1).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="sum"
    )
    assert_close(value, expected / len(labels))


def test_balanced_gradients_leave_the_loss_unweighted_and_negatives_alone_are_turned_off(batches):
    loss = EqualizationLossV2(C)
    loss.negative_gradients += 1000
    loss.positive_gradients += torch.tensor([1e9, 1000, 800, 0])
    positive, negative = loss.class_weights()
    f = 1 / (1 + math.exp(-12 * 0.2))
    assert negative.tolist() == pytest.approx([1, f, 0.5, 1 / (1 + math.exp(9.6))])
    assert positive.tolist() == pytest.approx([1, 5 - 4 * f, 3, 5 - 4 / (1 + math.exp(9.6))])


CONVERSIONS = {
    "half": nn.Module.half,
    "bfloat16": nn.Module.bfloat16,
    "deepcopy": copy.deepcopy,
    "to": lambda module: module.to("cpu", torch.float16),
    "in a model": lambda module: nn.Sequential(module, nn.Linear(2, 2)).half()[0],
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS.keys())
def test_the_sums_stay_float64(batches, convert):
    loss = EqualizationLossV2(C)
    loss.positive_gradients += 2**24 + 1 / 3
    loss(batches[0][0].requires_grad_(), batches[0][1])
    expected = copy.deepcopy(loss.state_dict())
    assert_close(convert(loss).state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma must be positive, got 0"),
        ({"alpha": -1}, "alpha must be 0 or more, got -1"),
    ],
)
def test_out_of_range_hyper_parameters_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        EqualizationLossV2(C, **options)


def test_print_shows_the_hyper_parameters():
    assert repr(EqualizationLossV2(3, sync=False)) == (
        "EqualizationLossV2(num_classes=3, gamma=12.0, mu=0.8, alpha=4.0, loss_weight=1.0, "
        "sync=False)"
    )
