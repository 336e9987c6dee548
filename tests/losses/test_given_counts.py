"""Tests of class counts that losses are given: lists, functions that read late, checkpoints."""

import copy

import pytest
import torch

from d2_seesaw.losses import BalancedGroupSoftmaxLoss, LogitAdjustmentLoss

LOSSES = pytest.mark.parametrize("kind", [BalancedGroupSoftmaxLoss, LogitAdjustmentLoss])


class Counting:
    """Function that returns counts and counts its calls."""

    def __init__(self, *counts):
        self.counts, self.calls = counts, 0

    def __call__(self):
        self.calls += 1
        return self.counts


def missing():
    raise FileNotFoundError("no training data here")


def step(loss):
    """Compute the losses of one RoI of each class and of background."""
    C = 3
    generator = torch.Generator().manual_seed(0)
    return loss(torch.randn(C + 1, loss.num_logits, generator=generator), torch.arange(C + 1))


def counts_of(loss):
    return loss.training_split.counts.tolist()


@LOSSES
def test_a_function_is_called_once_by_the_first_loss(kind):
    function = Counting(7, 500, 20)
    late, given = kind(3, function), kind(3, [7, 500, 20])
    assert function.calls == 0
    for _ in range(2):
        torch.manual_seed(0)
        expected = step(given)
        torch.manual_seed(0)
        assert step(late) == expected
    assert function.calls == 1
    assert counts_of(late) == [7, 500, 20]


@LOSSES
def test_a_trained_model_has_its_scores_where_the_training_data_are_missing(kind):
    trained, loaded = kind(3, Counting(7, 500, 20)), kind(3, missing).eval()
    step(trained)
    loaded.load_state_dict(trained.state_dict())
    logits = torch.randn(4, trained.num_logits)
    torch.testing.assert_close(loaded.scores(logits), trained.eval().scores(logits))
    assert counts_of(copy.deepcopy(loaded)) == [7, 500, 20]
    with pytest.raises(FileNotFoundError, match="no training data here"):
        step(loaded.train())


@LOSSES
@pytest.mark.parametrize("given", [[1, 2, 3000], Counting(1, 2, 3000)], ids=["list", "function"])
def test_training_uses_the_counts_that_are_given_and_not_those_of_a_checkpoint(kind, given):
    loss = kind(3, given)
    for _ in range(2):
        loss.load_state_dict(kind(3, [7, 500, 20]).state_dict())
        step(loss)
        assert counts_of(loss) == [1, 2, 3000]


@LOSSES
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 2], "class_counts must have 3 numbers, one for each class, got 2"),
        ([1, -2, 3], "class_counts must be whole numbers, 0 or more, got -2 at 1"),
        ([0.5, 2.0, 1.5], "class_counts must be whole numbers, 0 or more, got 0.5 at 0, 1.5 at 2"),
    ],
)
def test_wrong_counts_are_refused(kind, counts, message):
    with pytest.raises(ValueError, match=message):
        kind(3, counts)
    with pytest.raises(ValueError, match=message):
        step(kind(3, lambda: counts))


@pytest.mark.slow
@LOSSES
def test_a_compiled_loss_reads_the_counts_at_a_graph_break(kind):
    loss = kind(3, Counting(7, 500, 20))
    compiled = torch.compile(loss, backend="eager")
    torch.manual_seed(0)
    expected = step(copy.deepcopy(loss))
    torch.manual_seed(0)
    torch.testing.assert_close(step(compiled), expected)
