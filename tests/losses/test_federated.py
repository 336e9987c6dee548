"""Tests of the federated loss against Detectron2's own, and of the draw of its classes.

Shapes: R sampled RoIs, C classes.
"""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from d2_seesaw.losses import FederatedLoss

COUNTS = [900, 40, 3, 1, 7, 60]


def detectron2(counts: list[int], num_sampled: int | None, power: float) -> FastRCNNOutputLayers:
    return FastRCNNOutputLayers(
        ShapeSpec(channels=3),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        num_classes=len(counts),
        use_sigmoid_ce=True,
        use_fed_loss=num_sampled is not None,
        fed_loss_num_classes=num_sampled or 0,
        get_fed_loss_cls_weights=lambda: torch.tensor(counts).float() ** power,
    )


def batch(num_classes: int, rois: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rois, num_classes + 1, generator=generator)
    labels = torch.randint(num_classes + 1, (rois,), generator=generator)
    labels[torch.rand(rois, generator=generator) < 0.6] = num_classes
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize(
    ("num_classes", "num_sampled", "rois"),
    [(1203, 50, 512), (60, 50, 400), (7, 4, 20), (7, 1, 5), (7, 7, 5), (7, None, 9)],
)
def test_loss_and_gradient_are_detectron2s_to_the_bit(num_classes, num_sampled, rois, power):
    counts = (10 ** (4 * torch.rand(num_classes))).long().tolist()
    host = detectron2(counts, num_sampled, power)
    ours = FederatedLoss(num_classes, class_counts=counts, num_sampled=num_sampled, power=power)
    for seed in range(3):
        logits, labels = batch(num_classes, rois, seed)
        torch.manual_seed(seed)
        expected = host.sigmoid_cross_entropy_loss(logits, labels)
        torch.manual_seed(seed)
        (value,) = ours(logits, labels).values()
        assert value == expected
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.equal(gradient, torch.autograd.grad(expected, logits)[0])


def test_class_scores_are_detectron2s_and_background_is_what_no_class_claims():
    scores = FederatedLoss(2, num_sampled=None).scores(torch.tensor([[0.0, 2.0, 50.0]]))
    sigmoid = 1 / (1 + math.exp(-2))
    assert_close(scores, torch.tensor([[0.5, sigmoid, 1 - sigmoid]]))


def test_loss_without_sampling_matches_the_equation():
    logits, labels = batch(6, 9, seed=1)
    total = 0.0
    for z, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        for c in range(6):
            p = 1 / (1 + math.exp(-z[c]))
            total -= math.log(p if c == label else 1 - p)
    (value,) = FederatedLoss(6, num_sampled=None, loss_weight=2.0)(logits, labels).values()
    assert value.item() == pytest.approx(2 * total / 9, rel=1e-6)


def used_classes(loss: FederatedLoss, labels: list[int]) -> list[int]:
    """Return the classes whose logits get a gradient."""
    logits = torch.zeros(len(labels), loss.num_logits, requires_grad=True)
    loss(logits, torch.tensor(labels))["loss_cls"].backward()
    return logits.grad.any(dim=0).nonzero().flatten().tolist()


def test_all_classes_of_the_batch_are_used_however_many():
    loss = FederatedLoss(6, class_counts=COUNTS, num_sampled=2)
    assert used_classes(loss, [3, 1, 6, 3, 4, -1]) == [1, 3, 4]


@pytest.mark.parametrize("labels", [[2, 2, 2], [2, 6, 6]])
def test_background_counts_as_one_of_the_sampled_classes_as_in_detectron2(labels):
    used = used_classes(FederatedLoss(6, class_counts=COUNTS, num_sampled=4), labels)
    assert 2 in used
    assert len(used) == (3 if 6 in labels else 4)


def test_classes_without_training_images_are_not_drawn():
    loss = FederatedLoss(6, class_counts=[0, 5, 0, 5, 0, 5], num_sampled=50)
    assert used_classes(loss, [6]) == [1, 3, 5]
    assert used_classes(loss, [2, 6]) == [1, 2, 3, 5]


def test_the_probability_of_a_draw_is_proportional_to_the_power_of_the_count():
    loss = FederatedLoss(3, class_counts=[900, 100, 25], num_sampled=2, power=0.5)
    drawn = torch.zeros(3)
    for _ in range(400):
        (c,) = used_classes(loss, [3])
        drawn[c] += 1
    expected = torch.tensor([30.0, 10, 5]) / 45
    assert_close(drawn / 400, expected, rtol=0, atol=4 * 0.5 / 400**0.5)


def test_the_draw_follows_from_the_state_of_the_generator():
    loss = FederatedLoss(1203, class_counts=[7] * 1203)
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(used_classes(loss, [3, 1203]))
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("keep_random_state", [True, False])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_uses_the_classes_of_the_first_pass(
    use_reentrant, keep_random_state
):
    loss = FederatedLoss(1203, class_counts=[7] * 1203)
    logits, labels = batch(1203, 8, seed=2)

    def region(x: Tensor) -> Tensor:
        return loss(2 * x, labels)["loss_cls"] ** 2

    torch.manual_seed(1)
    (expected,) = torch.autograd.grad(region(logits), logits)
    torch.manual_seed(1)
    value = checkpoint(
        region, logits, use_reentrant=use_reentrant, preserve_rng_state=keep_random_state
    )
    value.backward()
    assert_close(logits.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_sampled=50 needs class_counts"),
        ({"class_counts": [1, 2]}, r"class_counts must have 3 numbers, .* got 2"),
        ({"class_counts": [1, 2, -3]}, r"whole numbers, 0 or more, got -3"),
        ({"num_sampled": 0}, "num_sampled must be at least 1 or None, got 0"),
        ({"num_sampled": None, "power": -1}, "power must be 0 or more, got -1"),
    ],
)
def test_invalid_arguments_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        FederatedLoss(3, **options)


def test_print_shows_the_hyper_parameters():
    text = repr(FederatedLoss(3, num_sampled=None))
    assert text == "FederatedLoss(num_classes=3, num_sampled=None, power=0.5, loss_weight=1.0)"
