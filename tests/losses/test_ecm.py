"""Tests of Effective Class-Margin Loss: the paper's equations and the authors' results.

``tests/golden/ecm_authors.json`` holds the results of the authors' code for the inputs of
``tests/losses/recorded.py``, in float64. Shapes: R sampled RoIs, C classes.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from d2_seesaw.losses import ECMLoss
from tests.losses.recorded import class_counts_of, steps_of

CASES = json.loads((Path(__file__).parents[1] / "golden" / "ecm_authors.json").read_text())["cases"]
COUNTS = [900, 40, 1, 7]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_results_match_the_authors(case):
    loss = ECMLoss(case["num_classes"], class_counts_of(case), **case["options"])
    for recorded, step in zip(case["recorded"], steps_of(case), strict=True):
        logits = step.logits.requires_grad_()
        (value,) = loss(logits, step.labels).values()
        (gradient,) = torch.autograd.grad(value, logits)
        found = {
            "loss_cls": value.detach().double(),
            "gradient_times_probe": gradient.double() @ step.probe,
            "scores_times_probe": loss.scores(logits.detach()).double() @ step.probe,
        }
        expected = {k: torch.tensor(v, dtype=torch.float64) for k, v in recorded.items()}
        assert_close(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("ratio", [6.3313, 0.5])
def test_loss_and_gradient_match_the_papers_equations(ratio):
    logits = 2 * torch.randn(7, 5, dtype=torch.float64)
    labels = [0, 4, 2, 3, 4, 1, 4]
    samples = [*COUNTS, ratio * sum(COUNTS)]
    total, gradient = 0.0, torch.zeros_like(logits)
    for i, row in enumerate(logits.tolist()):
        for c, z in enumerate(row):
            n, others = samples[c], sum(samples) - samples[c]
            margin_positive = others**0.25 / (n**0.25 + others**0.25)
            margin_negative = n**0.25 / (n**0.25 + others**0.25)
            positive, negative = math.exp(z) / margin_positive, math.exp(-z) / margin_negative
            s = positive / (positive + negative)
            m = others / n * math.log((1 + others / n) / (others / n))
            total -= m * math.log(s if labels[i] == c else 1 - s)
            # d log s / dz = 2 (1 - s)
            gradient[i, c] = 2 * m * (s - (labels[i] == c)) / 7
    loss = ECMLoss(4, COUNTS, background_ratio=ratio)
    (value,) = loss(logits.requires_grad_(), torch.tensor(labels)).values()
    assert value.item() == pytest.approx(total / 7, rel=1e-12)
    assert_close(torch.autograd.grad(value, logits)[0], gradient, rtol=1e-10, atol=1e-14)


def test_the_rarer_a_class_the_lower_its_bias_and_the_higher_its_weight():
    shifts, weights = ECMLoss(3, [1000, 10, 1]).shifts_and_weights()
    assert shifts[0] > shifts[1] > shifts[2]
    assert weights[0] < weights[1] < weights[2] < 1
    # Background has more samples than all classes together, so its margin is on the other side.
    assert shifts[3] > 0 > shifts[0]


def test_weights_of_very_rare_classes_do_not_round():
    # The limit is 1. In float32, (1 + a) / a is a multiple of 1.2e-7 above 1.
    _, weights = ECMLoss(3, [10**8, 3, 1]).shifts_and_weights()
    assert_close(weights[1:3], torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-8)


def test_zeros_count_as_ones():
    expected = ECMLoss(3, [5, 1, 2]).shifts_and_weights()
    assert_close(ECMLoss(3, [5, 0, 2]).shifts_and_weights(), expected, rtol=0, atol=0)


def test_counts_may_come_from_a_function():
    loss = ECMLoss(4, lambda: COUNTS)
    assert_close(loss.shifts_and_weights(), ECMLoss(4, COUNTS).shifts_and_weights())


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([1, 2], {}, "class_counts must have 3 numbers, .* got 2"),
        ([1, 2, 3], {"background_ratio": 0}, "background_ratio must be positive, got 0"),
    ],
)
def test_invalid_arguments_are_rejected(counts, options, message):
    with pytest.raises(ValueError, match=message):
        ECMLoss(3, counts, **options)


def test_print_shows_the_hyper_parameters():
    text = repr(ECMLoss(3, [1, 2, 3]))
    assert "num_classes=3, background_ratio=6.3313, loss_weight=1.0, sync=True" in text
