"""Tests of balanced group softmax: its authors' recorded answers, the equations, the sample.

Shapes: R sampled RoIs, C classes, G = 4 groups besides background against foreground.
"""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d2_seesaw.losses import BalancedGroupSoftmaxLoss

G = 4
COUNTS = [3, 2500, 10, 400]  # one class in each group
GROUPS = [0, 3, 1, 2]
CASES = ("all others", "ratio 8", "ratio 2")


@pytest.fixture(scope="module")
def recorded():
    return json.loads(Path("tests/golden/balanced_group_softmax_authors.json").read_text())


def columns(recorded) -> Tensor:
    """Return the authors' column of each of our logits."""
    starts, places = recorded["pred_slice"], recorded["label2binlabel"]
    classes = [
        next(starts[n][0] + places[n][c + 1] for n in range(1, 5) if places[n][c + 1])
        for c in range(len(recorded["counts"]))
    ]
    return torch.tensor([*classes, *(start for start, _ in starts[1:]), 1, 0])


def batch() -> tuple[Tensor, Tensor]:
    """Return float64 logits and labels of 60 RoIs: 10 with a class of group 0 or 2."""
    labels = torch.full((60,), 4)
    labels[:10] = torch.tensor([0, 0, 3, 0, 3, 3, 3, 0, 0, 3])
    return 2 * torch.randn(60, 10, dtype=torch.float64), labels


def loss_and_gradient(loss, logits, labels):
    logits = logits.clone().requires_grad_()
    losses = loss(logits, labels)
    return losses, torch.autograd.grad(sum(losses.values()), logits)[0]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_match_the_authors_code(recorded, case):
    expected = recorded[case]
    order = columns(recorded)
    logits = torch.tensor(recorded["logits"], dtype=torch.float64)[:, order]
    labels = torch.tensor(recorded["labels"])
    loss = BalancedGroupSoftmaxLoss(
        len(recorded["counts"]), recorded["counts"], others_ratio=expected["ratio"]
    )
    drawn = torch.tensor(expected["weights"][1:]).T.bool()
    keys = torch.rand(len(labels), G) / 2 + 0.5 * ~drawn  # the sample that the authors drew
    with mock.patch.object(torch, "rand", return_value=keys):
        losses, gradient = loss_and_gradient(loss, logits, labels)
    assert_close(
        torch.stack(list(losses.values())).tolist(), expected["losses"], rtol=1e-7, atol=1e-8
    )
    theirs = torch.tensor(expected["gradient"], dtype=torch.float64)[:, order]
    assert_close(gradient, theirs, rtol=0, atol=1e-8)


def test_scores_match_the_authors_code(recorded):
    logits = torch.tensor(recorded["logits"])[:, columns(recorded)]
    loss = BalancedGroupSoftmaxLoss(len(recorded["counts"]), recorded["counts"])
    scores = loss.scores(logits)
    theirs = torch.tensor(recorded["scores"])
    assert_close(scores, torch.cat([theirs[:, 1:], theirs[:, :1]], dim=1), rtol=1e-6, atol=1e-9)


def test_groups_follow_from_the_counts_as_in_the_authors_code(recorded):
    loss = BalancedGroupSoftmaxLoss(len(recorded["counts"]), recorded["counts"])
    for group, places in enumerate(recorded["label2binlabel"][1:]):
        assert (loss.groups() == group).tolist() == [place > 0 for place in places[1:]]


def test_is_the_papers_loss_of_each_group_on_its_classes_and_others():
    logits, labels = batch()
    losses, _ = loss_and_gradient(
        BalancedGroupSoftmaxLoss(4, COUNTS, others_ratio=1e9), logits, labels
    )
    objectness = logits[:, 8:].log_softmax(1)[range(60), (labels == 4).long()]
    assert losses["loss_cls_objectness"].item() == pytest.approx(-objectness.mean().item())
    for group, label in enumerate((0, 2, 3, 1)):
        pair = logits[:, [4 + group, label]].log_softmax(1)
        values = -pair[range(60), (labels == label).long()]
        expected = values.mean().item() if (labels == label).any() else 0.0
        assert losses[f"loss_cls_group{group + 1}"].item() == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.5, 8.0])
def test_draws_the_given_ratio_of_others_each_equally_often(ratio):
    logits, labels = batch()
    loss = BalancedGroupSoftmaxLoss(4, COUNTS, others_ratio=ratio)
    expected = [min(int(5 * ratio), 55), 0, min(int(5 * ratio), 55), 0]
    often = torch.zeros(60, G)
    for _ in range(300):
        _, gradient = loss_and_gradient(loss, logits, labels)
        trained = gradient[:, 4:8] != 0
        others = trained.clone()
        others[labels == 0, 0] = others[labels == 3, 2] = False
        assert others.sum(0).tolist() == expected
        assert trained[labels == 0, 0].all()
        assert trained[labels == 3, 2].all()
        often += others
    frequency = often[labels == 4][:, [0, 2]] / 300
    p = expected[0] / 55
    assert (frequency - p).abs().max() <= 5 * (p * (1 - p) / 300) ** 0.5


def test_the_sample_follows_from_the_seed():
    logits, labels = batch()
    loss = BalancedGroupSoftmaxLoss(4, COUNTS, others_ratio=2)
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(loss_and_gradient(loss, logits, labels)[1])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_group_and_its_others_share_the_probability_of_foreground():
    logits = 3 * torch.randn(7, 10, dtype=torch.float64)
    scores = BalancedGroupSoftmaxLoss(4, [1, 2, 30, 40]).scores(logits)
    objectness = logits[:, 8:].softmax(1)
    others = logits[:, [4, 0, 1]].softmax(1)[:, 0] * objectness[:, 0]
    assert_close(scores[:, :2].sum(1) + others, objectness[:, 0])
    assert_close(scores[:, 4], objectness[:, 1])


def test_groups_without_classes_are_allowed():
    loss = BalancedGroupSoftmaxLoss(4, [5000] * 4)
    losses, gradient = loss_and_gradient(loss, *batch())
    assert [f"{value.item():.1f}" for value in losses.values()][1:4] == ["0.0"] * 3
    assert gradient[:, 4:7].abs().max() == 0
    assert loss.num_logits == 4 + G + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": []}, r"bounds must be ascending numbers of at least 1, got \[\]"),
        ({"bounds": [10, 10]}, r"bounds must be ascending .*, got \[10, 10\]"),
        ({"bounds": [0, 10]}, r"bounds must be ascending .*, got \[0, 10\]"),
        ({"others_ratio": -1}, "others_ratio must be 0 or more, got -1"),
    ],
)
def test_out_of_range_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        BalancedGroupSoftmaxLoss(4, COUNTS, **options)


def test_scores_of_a_new_model_have_the_groups_of_the_training_split():
    counts = [1, 50, 500, 5000]
    late = BalancedGroupSoftmaxLoss(4, lambda: counts).eval()
    logits = torch.randn(3, late.num_logits)
    expected = BalancedGroupSoftmaxLoss(4, counts).scores(logits)
    assert torch.equal(late.scores(logits), expected)
    assert not torch.equal(BalancedGroupSoftmaxLoss(4, [1] * 4).scores(logits), expected)
    loaded = BalancedGroupSoftmaxLoss(4, lambda: 1 / 0).eval()
    loaded.load_state_dict(late.state_dict())  # without the training data
    assert torch.equal(loaded.scores(logits), expected)
