"""Tests of Recall Loss: its equation, the authors' recorded numbers and degenerate batches.

Shapes: N images, C classes, M pixels of the whole batch.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from d2_seesaw.losses import RecallLoss, recall_cross_entropy
from d2_seesaw.losses.dense.recall import LOWEST_WEIGHT, REDUCTIONS
from tests.reference import recall as reference
from tests.support.dense import flat, gradient_of

GOLDEN = Path(__file__).parents[2] / "golden" / "recall_loss_reference.json"
# (N, C, H, W); some hold fewer pixels than classes.
RANDOM_SHAPES = [(2, 5, 6, 7), (1, 3, 4, 4), (3, 19, 5, 8), (2, 2, 9, 3), (1, 40, 4, 6)] * 8

every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def random_batch(shape: tuple[int, int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Return float64 logits and long-tailed labels, the same in every NumPy release."""
    n, c, h, w = shape
    generator = np.random.RandomState(seed)
    labels = generator.choice(c, size=(n, h, w), p=(q := 0.7 ** np.arange(c)) / q.sum())
    logits = 2 * generator.standard_normal(shape)
    logits += 2 * np.eye(c)[labels].transpose(0, 3, 1, 2)  # better than chance
    return torch.from_numpy(logits), torch.from_numpy(labels)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Return a batch with recall 1 (class 4), recall 0 (3), an absent class (5), ignored pixels."""
    logits, labels = random_batch((2, 6, 5, 4), seed=0)
    labels[labels == 5] = 0
    labels[0, 0, :3], labels[0, 1, :2] = 4, 3
    logits[0, 4, 0, :3], logits[:, 3] = 50, -50
    labels[1, 2:4, 1] = 255
    return logits, labels


# --- the equation ---


@every_reduction
def test_loss_and_gradient_match_the_equations(batch, reduction):
    logits, labels = batch
    logits.requires_grad_()
    loss = recall_cross_entropy(logits, labels, reduction=reduction)
    expected, gradient = reference.recall_loss(*flat(logits.detach(), labels), reduction)
    assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    measured, _ = flat(gradient_of(loss, logits), labels)
    assert_close(measured, torch.tensor(gradient, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(len(RANDOM_SHAPES)))
def test_matches_the_authors_code_where_it_runs(seed):
    recorded = json.loads(GOLDEN.read_text())[seed]
    logits, labels = random_batch(RANDOM_SHAPES[seed], seed)
    logits.requires_grad_()
    loss = recall_cross_entropy(logits, labels, reduction="ref")
    if recorded is None:  # The authors' code fails if fewer than two classes have misses.
        assert loss.isfinite()
        return
    # The authors' weights are float32.
    assert_close(loss.item(), recorded["loss"], rtol=1e-6, atol=0)
    first_pixel_gradient = gradient_of(loss, logits).flatten(2)[0, :, 0]
    expected = torch.tensor(recorded["gradient_of_first_pixel"], dtype=torch.float64)
    assert_close(first_pixel_gradient, expected, rtol=1e-6, atol=1e-9)


def test_is_cross_entropy_where_every_class_is_missed():
    logits, labels = random_batch((2, 3, 4, 5), seed=1)
    logits.scatter_(1, labels[:, None], -60)
    assert_close(recall_cross_entropy(logits, labels), F.cross_entropy(logits, labels))


def test_logits_may_have_any_number_of_dimensions(batch):
    logits, labels = batch
    assert_close(
        recall_cross_entropy(logits.unsqueeze(2), labels.unsqueeze(1)),
        recall_cross_entropy(logits, labels),
    )


# --- batches that break the authors' code ---


@pytest.mark.parametrize("where", [0, 17, 39])
def test_an_ignored_pixel_has_no_effect_wherever_it_is(where):
    rows, classes = flat(*random_batch((2, 6, 5, 4), seed=2))
    classes[where] = 255
    kept = torch.arange(40) != where
    assert_close(
        recall_cross_entropy(rows, classes), recall_cross_entropy(rows[kept], classes[kept])
    )


@every_reduction
def test_a_perfect_batch_has_a_small_positive_loss(reduction):
    labels = torch.tensor([[[0, 1, 1, 1]]])
    logits = F.one_hot(labels, 3).movedim(-1, 1).double()
    loss = recall_cross_entropy(logits, labels, reduction=reduction)
    nll = F.cross_entropy(logits, labels).item()  # the same for each pixel
    expected = {
        "pixel_mean": (1 / 1 + 3 * 1 / 3) * nll / 4,
        "ref": (1 / 1 + 3 * 1 / 3) * nll / 4,
        "weighted_mean": nll,
    }[reduction]
    assert_close(loss.item(), expected)


def test_fewer_than_two_classes_with_misses_is_finite():
    labels = torch.tensor([[[0, 1], [2, 2]]])
    logits = 3 * F.one_hot(labels, 3).movedim(-1, 1).double()
    logits[0, :, 0, 0] = torch.tensor([0.0, 4, 0])
    expected, _ = reference.recall_loss(*flat(logits, labels), "pixel_mean")
    assert_close(recall_cross_entropy(logits, labels).item(), expected)


def test_a_single_class_has_zero_loss():
    assert recall_cross_entropy(torch.randn(4, 1), torch.zeros(4).long()).item() == 0


def test_extreme_logits_are_finite():
    logits = torch.tensor([[60.0, -60], [-60, 60], [60, -60]], dtype=torch.float16)
    loss = recall_cross_entropy(logits.requires_grad_(), torch.tensor([1, 1, 0]))
    loss.backward()
    assert_close(loss.item(), 120 * 0.5 / 3, rtol=1e-6, atol=0)
    assert logits.grad.isfinite().all()


def test_the_ignored_label_can_be_changed():
    logits, labels = random_batch((2, 6, 5, 4), seed=3)
    loss = recall_cross_entropy(logits, labels.where(labels > 0, -7), ignore_index=-7)
    assert_close(loss, recall_cross_entropy(logits, labels.where(labels > 0, 255)))


# --- precision ---


def test_the_sum_over_millions_of_float32_pixels_is_accurate():
    labels = torch.arange(4, dtype=torch.int64).repeat(500_000).view(1, 1000, 2000)
    logits = torch.zeros(1, 4, 1000, 2000)
    # Equal logits predict class 0, so its recall is 1 and that of the other classes is 0.
    expected = (1 / 500_000 + 3) / 4 * np.log(4)
    assert_close(recall_cross_entropy(logits, labels).item(), expected, rtol=1e-5, atol=0)


# --- the running recall ---


def test_without_momentum_there_is_no_state():
    assert not RecallLoss(3).state_dict()


def test_running_recall_is_a_moving_average_over_occurring_classes(batch):
    loss = RecallLoss(6, momentum=0.75)
    expected = [0.0] * 6
    for seed in range(3):
        logits, labels = random_batch((2, 6, 5, 4), seed)
        labels[labels == seed] = 5
        loss(logits, labels)
        predicted = logits.argmax(1)
        for c in range(6):
            if (labels == c).any():
                recall = (predicted[labels == c] == c).double().mean().item()
                expected[c] = 0.75 * expected[c] + 0.25 * recall
    assert_close(loss.running_recall, torch.tensor(expected))


def test_weights_follow_from_the_running_recall():
    logits, labels = random_batch((2, 6, 5, 4), seed=5)
    loss = RecallLoss(6, momentum=0.9).eval()
    loss.running_recall.copy_(torch.tensor([0.0, 0.25, 0.5, 0.75, 0.9, 1.0]))
    weights = torch.tensor([1, 0.75, 0.5, 0.25, 0.1, LOWEST_WEIGHT], dtype=torch.float64)
    expected = F.cross_entropy(logits, labels, weights, reduction="sum") / labels.numel()
    assert_close(loss(logits, labels), expected, rtol=1e-6, atol=0)


def test_the_first_step_with_momentum_uses_its_own_recall():
    logits = torch.tensor([[5.0, 0], [0, 5], [5, 0], [5, 0]])
    labels = torch.tensor([0, 0, 1, 1])
    loss = RecallLoss(2, momentum=0.5)(logits, labels)
    nll = F.cross_entropy(logits, labels, reduction="none")
    assert_close(loss, (0.75 * (nll[0] + nll[1]) + nll[2] + nll[3]) / 4)


def test_an_all_ignored_batch_keeps_the_running_recall(batch):
    logits, labels = batch
    loss = RecallLoss(6, momentum=0.9)
    loss(logits, labels)
    before = loss.running_recall.clone()
    loss(logits, torch.full_like(labels, 255))
    assert_close(loss.running_recall, before, rtol=0, atol=0)


# --- errors ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 2, "reduction": "mean"}, r"reduction must be one of .* got 'mean'"),
        ({"num_classes": 2, "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"num_classes": 2, "momentum": -0.1}, r"momentum must be in \[0, 1\), got -0.1"),
    ],
)
def test_a_hyper_parameter_out_of_range_is_reported(options, message):
    with pytest.raises(ValueError, match=message):
        RecallLoss(**options)


def test_logits_without_classes_are_reported():
    with pytest.raises(ValueError, match=r"\(N, C, ...\), got \(4,\)"):
        recall_cross_entropy(torch.randn(4), torch.zeros(4).long())
