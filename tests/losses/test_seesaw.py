"""Tests of Seesaw Loss: the paper's equations, limit cases and degenerate batches.

Shapes: P foreground RoIs, R sampled RoIs, C classes.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw.losses import SeesawLoss, seesaw_cross_entropy
from tests.reference import seesaw as reference
from tests.support.operators import OperatorLog

EXPONENTS = [(0.8, 2.0), (0.8, 0.0), (0.0, 2.0), (0.0, 0.0), (1.0, 1.0), (0.3, 3.5)]
Batch = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    """Return logits (P, C), labels and counts; P = 12, C = 5, every class occurs."""
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 0, 1, 4, 4, 2, 3])
    return 3 * torch.randn(12, 5, dtype=torch.float64), labels, torch.tensor([900, 40, 0, 1, 7])


@pytest.fixture
def detections() -> tuple[Tensor, Tensor]:
    """Return logits (R, C + 2) and labels of every class; R = 14, C = 4, background 4."""
    labels = torch.tensor([0, 4, 2, 0, 4, 1, 4, 4, 3, 0, 0, 4, 2, 4])
    return 2 * torch.randn(14, 6, dtype=torch.float64), labels


def gradient_of(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), logits)[0]


# --- the equations ---


@pytest.mark.parametrize(("p", "q"), EXPONENTS)
def test_loss_and_gradient_match_the_papers_equations(batch, p, q):
    logits, labels, counts = batch
    expected, expected_gradient = reference.seesaw(logits, labels, counts, p, q)
    losses = seesaw_cross_entropy(logits.requires_grad_(), labels, counts, p=p, q=q)
    assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    assert_close(gradient_of(losses, logits), expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eps", [1.0, 0.1, 1e-2, 1e-6])
def test_eps_floors_the_true_class_probability(batch, eps):
    expected, _ = reference.seesaw(*batch, 0.8, 2.0, eps)
    assert_close(seesaw_cross_entropy(*batch, eps=eps), expected, rtol=1e-6, atol=1e-6)


def test_float32_matches_the_papers_equations(batch):
    logits, labels, counts = batch
    losses = seesaw_cross_entropy(logits.float(), labels, counts)
    expected, _ = reference.seesaw(logits.float(), labels, counts, 0.8, 2.0)
    assert_close(losses, expected.float(), rtol=1e-5, atol=1e-5)


def test_gradcheck_without_compensation(batch):
    # With q > 0 finite differences include the stop-gradient weights, so gradcheck would fail.
    # The comparison with the equations covers that case.
    logits, labels, counts = batch
    assert torch.autograd.gradcheck(
        lambda z: seesaw_cross_entropy(z, labels, counts, q=0.0), logits.requires_grad_()
    )


def test_default_hyper_parameters_are_the_papers(batch):
    expected = seesaw_cross_entropy(*batch, p=0.8, q=2.0, eps=1e-2)
    assert_close(seesaw_cross_entropy(*batch), expected, rtol=0, atol=0)


# --- limits ---


def test_is_cross_entropy_when_both_factors_are_off(batch):
    logits, labels, counts = batch
    logits.requires_grad_()
    losses = seesaw_cross_entropy(logits, labels, counts, p=0, q=0)
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert_close(losses, expected)
    assert_close(gradient_of(losses, logits), gradient_of(expected, logits))


@pytest.mark.parametrize("count", [0, 1, 10**9])
def test_equal_counts_cause_no_mitigation(batch, count):
    logits, labels, _ = batch
    losses = seesaw_cross_entropy(logits, labels, torch.full((5,), count), q=0.0)
    assert_close(losses, F.cross_entropy(logits, labels, reduction="none"))


def test_the_rarest_class_predicted_correctly_costs_cross_entropy():
    # The true class is the most probable and the rarest one, so both factors are 1.
    logits = torch.tensor([[4.0, 1.0, -1.0]])
    losses = seesaw_cross_entropy(logits, torch.tensor([0]), torch.tensor([3, 50, 3]))
    assert_close(losses, F.cross_entropy(logits, torch.tensor([0]), reduction="none"))


def test_rarer_classes_are_suppressed_less():
    logits = torch.zeros(1, 3, requires_grad=True)
    gradient = gradient_of(
        seesaw_cross_entropy(logits, torch.tensor([0]), torch.tensor([100, 100, 10]), p=1.0), logits
    )
    assert_close(gradient[0, 2] / gradient[0, 1], torch.tensor(0.1))


# --- invariances ---


def test_scaling_all_counts_changes_nothing(batch):
    logits, labels, _ = batch
    counts = torch.tensor([900, 40, 2, 1, 7])
    scaled = seesaw_cross_entropy(logits, labels, 1000 * counts)
    assert_close(seesaw_cross_entropy(logits, labels, counts), scaled)


def test_permuting_the_classes_changes_nothing(batch):
    logits, labels, counts = batch
    order = torch.randperm(5)
    permuted = seesaw_cross_entropy(logits[:, order], order.argsort()[labels], counts[order])
    assert_close(permuted, seesaw_cross_entropy(*batch))


def test_adding_a_constant_to_the_logits_of_a_roi_changes_nothing(batch):
    logits, labels, counts = batch
    shifted = seesaw_cross_entropy(logits + 10 * torch.randn(12, 1), labels, counts)
    assert_close(shifted, seesaw_cross_entropy(*batch), rtol=1e-6, atol=1e-6)


# --- hard regimes ---


@pytest.mark.parametrize("q", [2.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("counts", [[0] * 5, [1] * 5, [10**9, 1, 0, 10**9, 1]])
def test_extreme_logits_and_counts_match_the_equations(dtype, counts, q):
    logits = (120 * torch.rand(40, 5) - 60).to(dtype)
    logits[:4] = torch.tensor([60.0, -60.0, 60.0, -60.0, 0.0])
    labels, counts = torch.arange(40) % 5, torch.tensor(counts)
    expected, expected_gradient = reference.seesaw(logits, labels, counts, 0.8, q)
    logits.requires_grad_()
    losses = seesaw_cross_entropy(logits, labels, counts, q=q)
    assert_close(losses, expected.float(), rtol=1e-5, atol=1e-5)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    assert_close(gradient_of(losses, logits), expected_gradient.to(dtype), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_neither_losses_nor_gradients_nor_scores(detections, dtype):
    def losses_gradient_and_scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        loss = SeesawLoss(4)
        losses = loss(logits, labels)
        each = tuple(losses.values())
        rows = seesaw_cross_entropy(logits[:, :4], labels % 4, torch.tensor([500, 3, 1, 70]))
        return *each, rows, gradient_of(sum(each) + rows.sum(), logits), loss.scores(logits)

    logits, labels = detections[0].float().requires_grad_(), detections[1]
    expected = losses_gradient_and_scores(logits, labels)
    with torch.autocast("cpu", dtype):
        actual = losses_gradient_and_scores(logits, labels)
    assert_close(actual, expected, rtol=0, atol=0)


def test_float64_logits_give_float64_losses_to_full_precision(detections):
    # A float32 normalizer would limit the losses to 7 digits.
    logits, labels = detections
    losses = SeesawLoss(4, loss_weight=0.7)(logits, labels)
    expected = reference.detection_losses(
        logits, labels, torch.tensor(reference.count(labels, 4)), 0.8, 2.0, loss_weight=0.7
    )
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        expected, rel=1e-12
    )


# --- the module: two losses, their normalizer, the counts ---


def test_module_matches_the_equations_over_several_steps(detections):
    logits, labels = detections
    loss, counts = SeesawLoss(4, p=0.7, q=1.5, eps=0.05, loss_weight=2.0), torch.zeros(5)
    for step in range(3):
        step_labels = labels.roll(step) if step < 2 else labels.clamp(max=1)
        counts += torch.tensor(reference.count(step_labels, 4))
        expected = reference.detection_losses(logits, step_labels, counts, 0.7, 1.5, 0.05, 2.0)
        losses = {name: value.item() for name, value in loss(logits, step_labels).items()}
        assert losses == pytest.approx(expected, rel=1e-6)


RECORDED_LOGITS = [
    [2, 0.5, -1, 0, 1.5, -0.5],
    [0.1, 0.2, 0.3, 0.4, 0, 0],
    [3, -1, 0, 1, -1, 1],
    [0, 0, 0, 0, 0.3, 0.7],
    [-2, 4, 0.5, 0.5, 2, 0],
    [1, 1, 1, 1, -2, 2],
]
# Recorded with mmdet 3.3.0: labels, counts after the step, class loss and objectness loss.
RECORDED_STEPS = [
    ([0, 0, 2, 4, 3, 4], [2, 0, 1, 1, 2], 3.526102, 0.600849),
    ([0, 0, 0, 1, 4, 4], [5, 1, 1, 1, 4], 0.414221, 1.000849),
    ([4, 4, 4, 4, 4, 4], [5, 1, 1, 1, 10], 0.0, 0.934183),
]


@pytest.fixture
def recorded_logits() -> Tensor:
    return torch.tensor(RECORDED_LOGITS)


def test_recorded_losses_and_counts_of_three_steps(recorded_logits):
    loss = SeesawLoss(4)
    for labels, counts, classes, objectness in RECORDED_STEPS:
        losses = loss(recorded_logits, torch.tensor(labels))
        assert loss.class_counts.tolist() == counts
        assert losses["loss_cls_classes"].item() == pytest.approx(classes, abs=1e-6)
        assert losses["loss_cls_objectness"].item() == pytest.approx(objectness, abs=1e-6)


def test_recorded_gradients(recorded_logits):
    labels = torch.tensor(RECORDED_STEPS[0][0])
    losses = SeesawLoss(4)(recorded_logits.requires_grad_(), labels)
    gradient = gradient_of(sum(losses.values()), recorded_logits)
    row_0 = [-0.031657, 0.017302, 0.003861, 0.010494, -0.019867, 0.019867]
    row_4 = [0, 0.166657, 5e-6, -0.166662, -0.019867, 0.019867]
    assert_close(gradient[[0, 4]], torch.tensor([row_0, row_4]), rtol=0, atol=1e-6)
    assert_close(gradient[[3, 5], :4], torch.zeros(2, 4), rtol=0, atol=0)


def test_recorded_scores(recorded_logits):
    row_0 = [0.625454, 0.139558, 0.031140, 0.084646, 0.119203]
    row_4 = [0.002054, 0.828694, 0.025024, 0.025024, 0.119203]
    scores = SeesawLoss(4).scores(recorded_logits)
    assert_close(scores[[0, 4]], torch.tensor([row_0, row_4]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("label", [2, 4])
def test_a_single_roi_is_not_divided_by_more_than_one(detections, label):
    logits, labels = detections[0][:1], torch.tensor([label])
    losses = {name: value.item() for name, value in SeesawLoss(4)(logits, labels).items()}
    counts = torch.tensor(reference.count(labels, 4))
    assert losses == pytest.approx(reference.detection_losses(logits, labels, counts, 0.8, 2.0))


def test_repeating_every_roi_changes_nothing(detections):
    # Counts double as well, which keeps their ratios.
    logits, labels = detections
    labels = torch.where(labels == 2, 3, labels)  # a count of 0 would not double
    labels[1] = 2
    repeated = SeesawLoss(4)(logits.repeat(2, 1), labels.repeat(2))
    assert_close(repeated, SeesawLoss(4)(logits, labels))


def test_the_class_loss_ignores_the_background_count(detections):
    loss = SeesawLoss(4)
    loss.class_counts[4] = 10**6
    assert_close(loss(*detections), SeesawLoss(4)(*detections))


# --- background as a class (table 8, "C + 1") ---


def test_without_objectness_background_is_a_class_of_the_papers_equations(detections):
    logits, labels = detections[0][:, :5].requires_grad_(), detections[1]
    loss, counts = SeesawLoss(4, p=0.7, q=1.5, objectness=False), torch.zeros(5)
    for step in range(2):
        step_labels = labels.roll(step).clamp(min=step)
        counts += torch.tensor(reference.count(step_labels, 4))
        losses = loss(logits, step_labels)
        expected, gradient = reference.seesaw(logits, step_labels, counts, 0.7, 1.5)
        assert list(losses) == ["loss_cls"]
        assert_close(losses["loss_cls"], expected.mean(), rtol=1e-6, atol=0)
        assert_close(gradient_of(losses["loss_cls"], logits), gradient / 14, rtol=0, atol=1e-12)
    assert loss.class_counts.tolist() == counts.tolist()


def test_without_objectness_background_suppresses_a_class_by_the_ratio_of_their_counts():
    loss = SeesawLoss(2, p=1.0, objectness=False).eval()
    loss.class_counts += torch.tensor([1000, 10, 100_000])
    logits = torch.zeros(1, 3, requires_grad=True)
    of_background = gradient_of(loss(logits, torch.tensor([2]))["loss_cls"], logits)[0]
    assert_close(of_background[:2] / of_background[2].neg(), torch.tensor([0.01, 1e-4]) / 0.0101)
    of_class = gradient_of(loss(logits, torch.tensor([1]))["loss_cls"], logits)[0]
    assert_close(of_class, torch.tensor([1.0, -2.0, 1.0]) / 3)


# --- scores ---


def test_scores_are_the_papers_product(detections):
    assert_close(SeesawLoss(4).scores(detections[0]), reference.scores(detections[0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_sum_to_one(dtype):
    scores = SeesawLoss(1203).scores((60 * torch.randn(8, 1205)).to(dtype))
    assert scores.shape == (8, 1204)
    assert_close(scores.sum(dim=1), torch.ones(8))


# --- ignored samples and empty batches ---


def test_without_foreground_only_the_objectness_loss_remains():
    logits = torch.randn(3, 6, requires_grad=True)
    losses = SeesawLoss(4)(logits, torch.full((3,), 4))
    assert_close(losses["loss_cls_classes"], torch.tensor(0.0))
    assert_close(gradient_of(losses["loss_cls_classes"], logits), torch.zeros(3, 6))
    target = torch.ones(3, dtype=torch.int64)
    assert_close(losses["loss_cls_objectness"], F.cross_entropy(logits[:, 4:], target))


def test_the_class_loss_of_a_single_class_is_zero():
    logits = torch.randn(4, 3, requires_grad=True)
    losses = SeesawLoss(1)(logits, torch.tensor([0, 1, 0, -1]))
    assert_close(losses["loss_cls_classes"], torch.tensor(0.0))
    gradient = gradient_of(sum(losses.values()), logits)
    assert_close(gradient[:, 0], torch.zeros(4))
    assert gradient[:3, 1:].abs().min() > 0


def test_function_accepts_empty_inputs():
    logits = torch.zeros(0, 4, requires_grad=True)
    losses = seesaw_cross_entropy(logits, torch.zeros(0, dtype=torch.int64), torch.ones(4))
    assert losses.shape == (0,)
    assert gradient_of(losses, logits).shape == (0, 4)


# --- state ---


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_dtype_are_counted(dtype):
    loss = SeesawLoss(4)
    loss(torch.zeros(4, 6), torch.tensor([0, 3, 3, 4], dtype=dtype))
    assert loss.class_counts.tolist() == [1, 0, 0, 2, 1]


@pytest.mark.parametrize("train", [True, False])
def test_a_validation_loss_uses_the_existing_counts(detections, train):
    loss = SeesawLoss(4).train(train)
    loss.class_counts += torch.tensor([1000, 1, 10, 1, 0])
    with torch.no_grad():
        losses = loss(*detections)
    expected = reference.detection_losses(*detections, loss.class_counts, 0.8, 2.0)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected)


def test_counts_are_exact_beyond_the_range_of_float32():
    loss = SeesawLoss(4)
    loss.class_counts += 2**24
    loss(torch.zeros(2, 6), torch.tensor([1, 4]))
    assert loss.class_counts.tolist() == [2**24, 2**24 + 1, 2**24, 2**24, 2**24 + 1]


CONVERSIONS = {
    "half": nn.Module.half,
    "bfloat16": nn.Module.bfloat16,
    "deepcopy": copy.deepcopy,
    "to": lambda module: module.to("cpu", torch.float16),
    "state_dict": lambda module: _reloaded(module),
}


def _reloaded(module: nn.Module) -> nn.Module:
    fresh = SeesawLoss(4)
    fresh.load_state_dict(module.state_dict())
    return fresh


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS.keys())
def test_counts_survive(detections, convert):
    loss = SeesawLoss(4)
    loss.class_counts += 2**24  # not representable in float16 or float32 after one more
    loss(*detections)
    expected = loss.class_counts.tolist()
    converted = convert(loss)
    assert converted.class_counts.dtype == torch.int64
    assert converted.class_counts.tolist() == expected


# --- cost ---


def test_memory_of_a_million_rois_is_proportional_to_their_logits():
    logits = torch.randn(10**6, 8, requires_grad=True)
    with OperatorLog() as log:
        losses = SeesawLoss(6)(logits, torch.arange(10**6) % 7)
        sum(losses.values()).backward()
    assert log.largest <= logits.nbytes
    assert all(math.isfinite(loss.item()) for loss in losses.values())


# --- errors ---


@pytest.mark.parametrize(
    ("logits", "labels", "counts", "message"),
    [
        ((2,), [0, 1], (5,), r"logits must have shape \(P, C, ...\), got \(2,\)"),
        ((2, 5), [0], (5,), r"labels must have shape \(2,\) to match logits \(2, 5\), got \(1,\)"),
        ((2, 5), [0, 1], (7,), r"class_counts must have shape \(5,\).*\(2, 5\), got \(7,\)"),
        ((2, 5), [0, 5], (5,), r"labels must be in \[0, 4\] \(5 classes\), got 5"),
        ((2, 5), [-1, 1], (5,), r"labels must be in \[0, 4\] \(5 classes\), got -1"),
        ((2, 5), [0.0, 1.0], (5,), r"labels must be integers, got torch\.float32"),
    ],
)
def test_function_rejects_inconsistent_inputs(logits, labels, counts, message):
    with pytest.raises(ValueError, match=message):
        seesaw_cross_entropy(torch.zeros(logits), torch.tensor(labels), torch.ones(counts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": -0.1}, "p must be 0 or more, got -0.1"),
        ({"q": -2}, "q must be 0 or more, got -2"),
        ({"q": math.nan}, "q must be 0 or more, got nan"),
        ({"eps": 0}, r"eps must be in \(0, 1\], got 0"),
        ({"eps": 1.5}, r"eps must be in \(0, 1\], got 1.5"),
    ],
)
def test_out_of_range_hyper_parameters_are_rejected(batch, options, message):
    with pytest.raises(ValueError, match=message):
        SeesawLoss(4, **options)
    with pytest.raises(ValueError, match=message):
        seesaw_cross_entropy(*batch, **options)


def test_print_shows_the_hyper_parameters():
    text = repr(SeesawLoss(4, p=0.5, sync=False))
    assert text == (
        "SeesawLoss(num_classes=4, p=0.5, q=2.0, eps=0.01, objectness=True, loss_weight=1.0, "
        "sync=False)"
    )
