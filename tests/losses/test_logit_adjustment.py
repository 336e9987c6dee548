"""Tests of logit adjustment: its equation, the authors' Balanced Softmax, forms with background."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d2_seesaw.losses import LogitAdjustmentLoss, SoftmaxLoss, logit_adjusted_cross_entropy

COUNTS = [900, 40, 0, 7]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Return float64 logits (R, C + 2) and labels of R = 9 RoIs, C = 4 classes, background 4."""
    return 3 * torch.randn(9, 6, dtype=torch.float64), torch.tensor([0, 4, 2, 4, 1, 3, 0, -1, 4])


def equation(logits: Tensor, labels: Tensor, shares: Tensor, tau: float) -> Tensor:
    """Compute eq. 10 of the paper as it is written."""
    powers = (logits + tau * shares.log()).exp()
    return -(powers[range(len(labels)), labels] / powers.sum(dim=1)).log()


def test_balanced_softmax_matches_its_authors_code():
    recorded = json.loads(Path("tests/golden/balanced_softmax_authors.json").read_text())
    logits = torch.tensor(recorded["logits"], dtype=torch.float64).requires_grad_()
    counts, labels = torch.tensor(recorded["counts"]), torch.tensor(recorded["labels"])
    losses = logit_adjusted_cross_entropy(logits, labels, counts)
    assert_close(losses.tolist(), recorded["losses"], rtol=0, atol=1e-8)
    gradient = torch.autograd.grad(losses.sum(), logits)[0]
    assert_close(gradient.tolist(), recorded["gradient"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_function_is_the_papers_equation(tau):
    logits, labels = 3 * torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 4
    shares = torch.tensor([900.0, 40, 1, 7]).double() / 948
    actual = logit_adjusted_cross_entropy(logits, labels, torch.tensor(COUNTS), tau=tau)
    assert_close(actual, equation(logits, labels, shares, tau))
    images = logits.view(2, 4, 4).transpose(1, 2), labels.view(2, 4)
    dense = logit_adjusted_cross_entropy(*images, torch.tensor(COUNTS), tau=tau)
    assert_close(dense.flatten(), actual)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_with_objectness_the_classes_alone_are_adjusted(batch, tau):
    logits, labels = batch
    losses = LogitAdjustmentLoss(4, COUNTS, tau=tau)(logits, labels)
    foreground = (labels >= 0) & (labels < 4)
    shares = torch.tensor([900.0, 40, 1, 7]).double() / 948
    classes = equation(logits[foreground, :4], labels[foreground], shares, tau).sum() / 8
    assert_close(losses["loss_cls_classes"], classes)
    plain = SoftmaxLoss(4, objectness=True)(logits, labels)["loss_cls_objectness"]
    assert_close(losses["loss_cls_objectness"], plain)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_without_objectness_background_is_an_average_class_that_is_not_adjusted(batch, tau):
    logits, labels = batch[0][:, :5], batch[1]
    loss = LogitAdjustmentLoss(4, COUNTS, tau=tau, objectness=False)
    shares = torch.tensor([900.0, 40, 1, 7, 237]).double()  # 237 is their mean
    kept = labels >= 0
    expected = equation(logits[kept], labels[kept], shares, tau).mean()
    assert_close(loss(logits, labels)["loss_cls"], expected)


@pytest.mark.parametrize("objectness", [True, False])
@pytest.mark.parametrize("options", [{"tau": 0.0}, {"class_counts": [50] * 4}], ids=str)
def test_is_cross_entropy_without_adjustment_or_imbalance(batch, objectness, options):
    logits, labels = batch[0][:, : 5 + objectness], batch[1]
    loss = LogitAdjustmentLoss(4, **{"class_counts": COUNTS, **options}, objectness=objectness)
    assert_close(loss(logits, labels), SoftmaxLoss(4, objectness=objectness)(logits, labels))


@pytest.mark.parametrize("objectness", [True, False])
def test_scores_are_not_adjusted(batch, objectness):
    logits = batch[0][:, : 5 + objectness]
    scores = LogitAdjustmentLoss(4, COUNTS, objectness=objectness).scores(logits)
    assert_close(scores, SoftmaxLoss(4, objectness=objectness).scores(logits))


def test_fitted_scores_are_those_of_balanced_classes():
    # Two classes that a feature does not tell apart: their counts alone decide cross-entropy.
    labels = torch.tensor([0] * 90 + [1] * 10)
    scores = {}
    for name, loss in (
        ("plain", SoftmaxLoss(2, objectness=True)),
        ("adjusted", LogitAdjustmentLoss(2, [90, 10])),
    ):
        logits = torch.zeros(4, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=50)

        def closure(optimizer=optimizer, loss=loss, logits=logits):
            optimizer.zero_grad()
            value = loss(logits.expand(100, 4), labels)["loss_cls_classes"]
            value.backward()
            return value

        optimizer.step(closure)
        scores[name] = logits.detach()[:2].softmax(0)
    assert_close(scores["plain"], torch.tensor([0.9, 0.1]), rtol=0, atol=1e-3)
    assert_close(scores["adjusted"], torch.tensor([0.5, 0.5]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("tau", [-0.5, float("nan")])
def test_out_of_range_tau_is_rejected(tau):
    with pytest.raises(ValueError, match=f"tau must be 0 or more, got {tau}"):
        LogitAdjustmentLoss(4, COUNTS, tau=tau)
    with pytest.raises(ValueError, match=f"tau must be 0 or more, got {tau}"):
        logit_adjusted_cross_entropy(
            torch.zeros(1, 4), torch.tensor([0]), torch.tensor(COUNTS), tau=tau
        )


@pytest.mark.parametrize(
    ("logits", "labels", "counts", "message"),
    [
        ((2,), [0, 1], 4, r"logits must have shape \(P, C, ...\), got \(2,\)"),
        ((2, 4), [0], 4, r"labels must have shape \(2,\) to match logits \(2, 4\), got \(1,\)"),
        ((2, 4), [0, 4], 4, r"labels must be in \[0, 3\] \(4 classes\), got 4"),
        ((2, 4), [0, 1], 5, r"class_counts must have shape \(4,\) .*, got \(5,\)"),
    ],
)
def test_function_rejects_inconsistent_inputs(logits, labels, counts, message):
    with pytest.raises(ValueError, match=message):
        logit_adjusted_cross_entropy(torch.zeros(logits), torch.tensor(labels), torch.ones(counts))
