"""Tests of losses with a sigmoid per class, and of federated ones, on two ranks.

Shapes: R sampled RoIs over all ranks, C = 4 classes, 4 is background.
"""

from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from d2_seesaw.losses import ECMLoss, EqualizationLossV2, FederatedLoss, FederatedSeesawLoss
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.dist

C = 4
COUNTS = [900, 40, 1, 7]
# Labels of each step, by rank. Their number differs, as for RoIs from the sampler.
STEPS = [
    ([0, 0, 4, 1, 0, 4, 2, 0, 4], [3, 4, 0]),
    ([0, 2, 4], [4, 4, 4, 4, 4]),
    ([1, 0, 4, 3], []),
    ([-1, 0, 4], [2, -1, -1, 1, 4]),
    ([-1], []),
    ([0, 1, 4], [2, 0, 4]),
]
SHARED = {
    "equalization v2": lambda: EqualizationLossV2(C),
    "ecm": lambda: ECMLoss(C, COUNTS),
    "federated seesaw": lambda: FederatedSeesawLoss(C),
}
Results = list[tuple[Tensor, Tensor, dict[str, Tensor]]]


def batches_of(rank: int | None) -> list[tuple[Tensor, Tensor]]:
    """Return features and labels of a rank; None combines all ranks."""
    batches = []
    for step, by_rank in enumerate(STEPS):
        labels = [torch.tensor(labels, dtype=torch.int64) for labels in by_rank]
        generator = torch.Generator().manual_seed(step)
        features = torch.randn(sum(map(len, labels)), 3, generator=generator)
        if rank is None:
            batches.append((features, torch.cat(labels)))
        else:
            batches.append((features.split([len(y) for y in labels])[rank], labels[rank]))
    return batches


def train(loss: Any, rank: int | None, wrap: type | None = None) -> Results:
    """Return the loss, the classifier's gradient and the state of the loss after each step."""
    torch.manual_seed(0)
    classifier = nn.Linear(3, loss.num_logits)
    model = wrap(classifier, broadcast_buffers=False) if wrap else classifier
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5)
    results = []

    def region(logits: Tensor, labels: Tensor) -> Tensor:
        given = {}
        if isinstance(loss, FederatedSeesawLoss):
            given = {"verified_classes": torch.arange(C) != (labels[:, None] + 1) % C}
        return sum(loss(logits, labels, **given).values())

    for features, labels in batches_of(rank):
        optimizer.zero_grad()
        value = checkpoint(region, model(features), labels, use_reentrant=False)
        value.backward()
        state = {name: x.clone() for name, x in loss.state_dict().items()}
        results.append((value.detach(), classifier.weight.grad.clone(), state))
        optimizer.step()
    return results


def train_on_this_rank() -> dict[str, Any]:
    rank = dist.get_rank()
    results: dict[str, Any] = {}
    for name, new_loss in SHARED.items():
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
            results[name] = train(new_loss(), rank, DistributedDataParallel)
        results[f"sums of {name}"] = all_reduce.call_count
    torch.manual_seed(rank)
    with mock.patch.object(dist, "all_reduce") as all_reduce:
        results["federated"] = train(FederatedLoss(C, class_counts=COUNTS, num_sampled=3), rank)
    results["sums of federated"] = all_reduce.call_count
    if rank == 0:  # a validation loss on one rank would hang if it communicated
        for new_loss in SHARED.values():
            loss = new_loss()
            with torch.no_grad():
                loss(torch.zeros(2, loss.num_logits), torch.tensor([0, 4]))
    return results


@cache
def on_two_ranks() -> list[dict[str, Any]]:
    return run_on_ranks(train_on_this_rank, world_size=2)


@pytest.mark.parametrize("name", SHARED)
def test_losses_gradients_and_state_match_one_process(name):
    expected = train(SHARED[name](), None)
    first, second = (rank[name] for rank in on_two_ranks())
    for (a, grad_a, state_a), (b, grad_b, state_b), (value, gradient, state) in zip(
        first, second, expected, strict=True
    ):
        assert_close((a + b) / 2, value)
        assert_close((grad_a, grad_b), (gradient, gradient))
        assert_close(state_a, state_b, rtol=0, atol=0)
        assert_close(state_a, state, rtol=1e-6, atol=1e-6)
    assert (expected[0][1] - expected[-1][1]).abs().max() > 0.01  # the classifier has changed


@pytest.mark.parametrize("name", SHARED)
def test_a_step_communicates_once(name):
    assert [rank[f"sums of {name}"] for rank in on_two_ranks()] == [len(STEPS)] * 2


def test_the_federated_loss_shares_nothing_as_in_detectron2():
    for index, rank in enumerate(on_two_ranks()):
        torch.manual_seed(index)
        alone = train(FederatedLoss(C, class_counts=COUNTS, num_sampled=3), index)
        assert_close(rank["federated"], alone, rtol=0, atol=0)
        assert rank["sums of federated"] == 0
