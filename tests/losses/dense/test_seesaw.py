"""Tests of Seesaw Loss without objectness: the paper's equations, sampling and counts.

Shapes: N images, C classes, M pixels of the whole batch.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from d2_seesaw.losses import SeesawCrossEntropyLoss, seesaw, seesaw_cross_entropy
from d2_seesaw.losses.dense import seesaw as dense_seesaw
from tests.reference import seesaw as reference
from tests.support.dense import flat, gradient_of

C = 5


# --- the equations ---


@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (0.8, 1.0), (0.8, 0.0), (0.0, 2.0)])
def test_loss_and_gradient_match_the_papers_equations(batch, p, q):
    logits, labels = batch
    logits.requires_grad_()
    loss = SeesawCrossEntropyLoss(C, p=p, q=q)
    loss.class_counts += torch.tensor([1000, 3, 0, 50, 7])
    value = loss(logits, labels)
    rows, classes = flat(logits.detach(), labels)
    valid = classes != 255
    losses, gradients = reference.seesaw(rows[valid], classes[valid], loss.class_counts, p, q)
    assert_close(value, losses.mean(), rtol=1e-9, atol=1e-9)
    measured, _ = flat(gradient_of(value, logits), labels)
    assert_close(measured[valid], gradients / valid.sum(), rtol=0, atol=1e-12)
    assert measured[~valid].abs().sum() == 0


def test_is_cross_entropy_when_both_factors_are_off(batch):
    logits, labels = batch
    logits.requires_grad_()
    value = SeesawCrossEntropyLoss(C, p=0, q=0)(logits, labels)
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    assert_close(value, expected)
    assert_close(gradient_of(value, logits), gradient_of(expected, logits))


def test_the_function_accepts_images(batch):
    logits, labels = batch
    labels = labels.clamp(max=C - 1)
    counts = torch.tensor([1000, 3, 0, 50, 7])
    losses = seesaw_cross_entropy(logits, labels, counts)
    assert losses.shape == labels.shape
    assert_close(losses.flatten(), seesaw_cross_entropy(*flat(logits, labels), counts))


# --- chunks and samples ---


@pytest.mark.parametrize(("chunk_size", "expected"), [(None, [40]), (8, [8, 8, 4, 8, 8, 4])])
def test_weights_are_computed_one_chunk_at_a_time(batch, monkeypatch, chunk_size, expected):
    sizes = []

    def note(logits, *others, **options):
        sizes.append(logits.numel() // C)
        return seesaw.seesaw_losses(logits, *others, **options)

    monkeypatch.setattr(dense_seesaw, "seesaw_losses", note)
    SeesawCrossEntropyLoss(C, chunk_size=chunk_size)(*batch)
    assert sizes == expected


def test_sampling_all_pixels_equals_no_sampling(batch):
    logits, labels = batch
    logits.requires_grad_()
    whole, sampled = SeesawCrossEntropyLoss(C), SeesawCrossEntropyLoss(C, sample_size=37)
    expected, value = whole(logits, labels), sampled(logits, labels)
    assert_close(value, expected)
    assert_close(gradient_of(value, logits), gradient_of(expected, logits))


@pytest.mark.parametrize("layout", ["images", "samples"])
def test_sampling_is_unbiased(batch, layout):
    logits, labels = batch if layout == "images" else flat(*batch)
    loss = SeesawCrossEntropyLoss(C, sample_size=10).eval()
    values = torch.stack([loss(logits, labels) for _ in range(2000)])
    loss.sample_size = None
    deviation = values.std() / len(values) ** 0.5
    assert (values.mean() - loss(logits, labels)).abs() < 5 * deviation
    assert values.std() > 0


def test_only_sampled_pixels_get_a_gradient_but_all_are_counted(batch):
    logits, labels = batch
    logits.requires_grad_()
    loss = SeesawCrossEntropyLoss(C, sample_size=6)
    gradient = gradient_of(loss(logits, labels), logits)
    has_gradient = gradient.abs().sum(dim=1) > 0
    assert has_gradient.sum() == 6
    assert not has_gradient[labels == 255].any()
    assert loss.class_counts.sum() == 37


# --- counts ---


def test_counts_the_pixels_of_each_class(batch):
    loss = SeesawCrossEntropyLoss(C)
    loss(*batch)
    _, labels = flat(*batch)
    assert_close(loss.class_counts, labels[labels != 255].bincount(minlength=C))


@pytest.mark.parametrize("bits", [24, 31, 40])
def test_counts_stay_exact_beyond(bits):
    loss = SeesawCrossEntropyLoss(2)
    loss.class_counts += 2**bits
    for _ in range(3):
        loss(torch.randn(1, 2), torch.tensor([1]))
    assert loss.class_counts.tolist() == [2**bits, 2**bits + 3]


def test_only_the_ratio_of_large_counts_matters():
    logits, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = SeesawCrossEntropyLoss(3).eval()
    loss.class_counts += torch.tensor([5, 300, 1])
    expected = loss(logits, labels)
    loss.class_counts *= 2**45
    assert_close(loss(logits, labels), expected)


# --- errors ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 2, "p": -1}, "p must be 0 or more, got -1"),
        ({"num_classes": 2, "eps": 0}, r"eps must be in \(0, 1\], got 0"),
        ({"num_classes": 2, "sample_size": -5}, "sample_size must be at least 1 or None, got -5"),
    ],
)
def test_a_hyper_parameter_out_of_range_is_reported(options, message):
    with pytest.raises(ValueError, match=message):
        SeesawCrossEntropyLoss(**options)
