"""Tests of the losses for RoIs on two ranks against one process with the whole batch.

Shapes: R sampled RoIs over all ranks, C = 4 classes, 4 is background.
"""

import copy
from collections.abc import Sequence
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

from d2_seesaw.losses import BalancedGroupSoftmaxLoss
from tests.losses.all_losses import ROI_LOSSES, C
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.dist

SYNCED = [name for name, new_loss in ROI_LOSSES.items() if getattr(new_loss(C), "sync", False)]
UNSYNCED = [name for name in ROI_LOSSES if name not in SYNCED]
# Labels of each step, by rank. Their number differs, as for RoIs from the sampler.
STEPS = {
    "unequal numbers of RoIs": ([0, 0, 4, 1, 0, 4, 2, 0, 4], [3, 4, 0]),
    "no foreground on rank 1": ([0, 2, 4], [4, 4, 4, 4, 4]),
    "no RoIs on rank 1": ([1, 0, 4, 3], []),
    "some ignored": ([-1, 0, 4], [2, -1, -1, 1, 4]),
    "nothing on any rank": ([-1], []),
    "equal numbers of RoIs": ([0, 1, 4], [2, 0, 4]),
}
Losses, Gradients, States = list[dict[str, Tensor]], list[Tensor], list[dict[str, Tensor]]
Result = tuple[Losses, Gradients, States]


def features_of(step: int, rois: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(rois, 3, generator=generator)


def train(
    name: str,
    batches: list[tuple[Tensor, Tensor]],
    sync: bool = True,
    wrap: type | None = None,
    how: str = "plain",
) -> Result:
    """Return losses, gradients of the classifier and state of the loss, after each step.

    Args:
        name: key of ``ROI_LOSSES``.
        batches: features and labels of each step.
        sync: count over the ranks.
        wrap: wrapper of the model.
        how: "plain", "compiled", or the kind of activation checkpointing around the loss.
    """
    torch.manual_seed(0)
    loss = ROI_LOSSES[name](C)
    loss.sync = sync
    classifier = nn.Linear(3, loss.num_logits)
    model = wrap(classifier, broadcast_buffers=False) if wrap else classifier
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5)
    losses, gradients, states = [], [], []

    def region(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return tuple(loss(logits, labels).values())

    for features, labels in batches:
        optimizer.zero_grad()
        if "reentrant" in how:
            values = checkpoint(region, model(features), labels, use_reentrant=how == "reentrant")
            losses.append({str(i): value for i, value in enumerate(values)})
        else:
            losses.append((compiled if how == "compiled" else loss)(model(features), labels))
        sum(losses[-1].values()).backward()
        gradients.append(classifier.weight.grad.clone())
        states.append(copy.deepcopy(loss.state_dict()))
        optimizer.step()
    return [{k: v.detach() for k, v in step.items()} for step in losses], gradients, states


def batches_of(rank: int | None) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of a rank; None combines all ranks."""
    batches = []
    for step, by_rank in enumerate(STEPS.values()):
        labels = [torch.tensor(labels, dtype=torch.int64) for labels in by_rank]
        features = features_of(step, sum(map(len, labels))).split([len(own) for own in labels])
        if rank is None:
            batches.append((torch.cat(features), torch.cat(labels)))
        else:
            batches.append((features[rank], labels[rank]))
    return batches


def train_compiled_on_this_rank(name: str) -> Result:
    return train(name, batches_of(dist.get_rank()), wrap=DistributedDataParallel, how="compiled")


def train_on_this_rank(how: str = "plain", names: Sequence[str] = SYNCED) -> dict[str, Any]:
    """Return result and number of sums over the ranks by loss."""
    results = {}
    for name in names:
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
            batches = batches_of(dist.get_rank())
            result = train(name, batches, wrap=DistributedDataParallel, how=how)
        results[name] = result, all_reduce.call_count
    return results


def use_this_rank() -> dict[str, Any]:
    local = {name: train(name, batches_of(dist.get_rank()), sync=False) for name in SYNCED}
    return {
        "synced": train_on_this_rank(),
        "local": local,
        "evaluated": evaluate_on_one_rank_only(),
        "reentrant": train_on_this_rank("reentrant"),
        "not reentrant": train_on_this_rank("not reentrant"),
        "drawn": draw_on_this_rank(),
        "unsynced": train_on_this_rank(names=UNSYNCED),
    }


def evaluate_on_one_rank_only() -> dict[str, dict[str, Tensor]] | None:
    """Compute validation losses on rank 0 only, which would hang if they communicated."""
    return evaluated() if dist.get_rank() == 0 else None


def evaluated() -> dict[str, dict[str, Tensor]]:
    losses = {name: ROI_LOSSES[name](C) for name in SYNCED}
    with torch.no_grad():
        return {
            name: loss(torch.zeros(2, loss.num_logits), torch.tensor([0, 4]))
            for name, loss in losses.items()
        }


def draw_on_this_rank() -> list[Tensor]:
    """Draw "others" at a ratio of 2; return their number in each group."""
    loss = BalancedGroupSoftmaxLoss(C, [1, 10, 100, 1000], others_ratio=2)
    torch.manual_seed(dist.get_rank())
    numbers = []
    for _, labels in batches_of(dist.get_rank()):
        own = labels[:, None] == torch.arange(C)
        weights, normalizers = loss._sample(own, labels >= 0, True)
        numbers += [(weights > own).sum(dim=0), own.sum(dim=0), normalizers]
    return numbers


@cache
def on_two_ranks() -> list[dict[str, Any]]:
    return run_on_ranks(use_this_rank, world_size=2)


@cache
def in_one_process(name: str) -> Result:
    return train(name, batches_of(None))


every_synced_loss = pytest.mark.parametrize("name", SYNCED)


@every_synced_loss
def test_states_mean_losses_and_averaged_gradients_match_one_process(name):
    losses, gradients, states = in_one_process(name)
    ranks = [rank["synced"][name][0] for rank in on_two_ranks()]
    for step, what in enumerate(STEPS):
        for rank in ranks:
            # Counts are exact. Gradients that EQL v2 accumulates are summed in another order.
            assert_close(rank[2][step], states[step], rtol=1e-6, atol=1e-8, msg=what)
            assert_close(rank[1][step], gradients[step])
        both = [rank[0][step] for rank in ranks]
        assert_close({k: (both[0][k] + both[1][k]) / 2 for k in both[0]}, losses[step])
    # Without changes of the classifier, equal gradients would prove little.
    assert (gradients[0] - gradients[-1]).abs().max() > 0.01


@every_synced_loss
def test_checkpointed_losses_match_plain_ones_and_communicate_once(name):
    for rank in on_two_ranks():
        (losses, *rest), sums = rank["synced"][name]
        expected = [list(step.values()) for step in losses]
        for how in ("reentrant", "not reentrant"):
            (found, *others), number = rank[how][name]
            values = [list(step.values()) for step in found]
            assert_close((values, others), (expected, rest), rtol=0, atol=0)
            assert number == sums == len(STEPS)


@pytest.mark.slow
@every_synced_loss
def test_compiled_losses_match_eager_ones(name):
    compiled = run_on_ranks(train_compiled_on_this_rank, name, world_size=2)
    for index, rank in enumerate(on_two_ranks()):
        assert_close(compiled[index], rank["synced"][name][0])


@every_synced_loss
def test_ranks_stay_independent_without_sync(name):
    for index, rank in enumerate(on_two_ranks()):
        assert_close(rank["local"][name], train(name, batches_of(index)))  # no process group here


@pytest.mark.parametrize("name", UNSYNCED)
def test_losses_that_share_nothing_do_not_communicate(name):
    assert [rank["unsynced"][name][1] for rank in on_two_ranks()] == [0, 0]


def test_counts_of_ranks_differ_without_sync():
    first, second = (rank["local"]["seesaw"][2][-1] for rank in on_two_ranks())
    assert first["class_counts"].tolist() != second["class_counts"].tolist()


def test_a_validation_loss_does_not_communicate():
    assert_close(on_two_ranks()[0]["evaluated"], evaluated())
    losses = {name: loss.item() for name, loss in evaluated()["seesaw"].items()}
    assert losses["loss_cls_classes"] == pytest.approx(torch.tensor(4.0).log().item() / 2)
    assert losses["loss_cls_objectness"] == pytest.approx(torch.tensor(2.0).log().item())


def test_ranks_draw_their_shares_of_the_others_of_all_ranks():
    first, second = (rank["drawn"] for rank in on_two_ranks())
    unequal = 0
    for step, by_rank in enumerate(STEPS.values()):
        valid = sum(label >= 0 for labels in by_rank for label in labels)
        drawn, own = (first[3 * step + i] + second[3 * step + i] for i in (0, 1))
        assert drawn.tolist() == [min(2 * n, valid - n) for n in own.tolist()]
        assert_close(2 * first[3 * step + 2], torch.tensor([valid, *(drawn + own)]).clamp(min=1.0))
        unequal += (first[3 * step] != second[3 * step]).sum()
    assert unequal > 0


def _raise_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise RuntimeError("a rank that fails")
    dist.barrier()


def test_run_on_ranks_reports_the_rank_that_failed():
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 failed:.*a rank that fails"):
        run_on_ranks(_raise_on_rank_1, world_size=2)


def _wait_on_rank_0() -> None:
    if dist.get_rank() == 0:
        torch.multiprocessing.get_context("spawn").Event().wait()


def test_run_on_ranks_ends_ranks_that_hang():
    with pytest.raises(TimeoutError, match=r"1 ranks did not finish within 0\.5 s"):
        run_on_ranks(_wait_on_rank_0, world_size=1, timeout=0.5)
