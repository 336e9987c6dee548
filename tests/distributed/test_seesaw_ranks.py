"""Tests of Seesaw Loss on two ranks against one process with the whole batch.

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

from d2_seesaw.losses import SeesawLoss
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.dist

C = 4
# Labels of each step, by rank. Their number differs, as for RoIs from the sampler.
STEPS = {
    "unequal numbers of RoIs": ([0, 0, 4, 1, 0, 4, 2, 0, 4], [3, 4, 0]),
    "no foreground on rank 1": ([0, 2, 4], [4, 4, 4, 4, 4]),
    "no RoIs on rank 1": ([1, 0, 4, 3], []),
    "some ignored": ([-1, 0, 4], [2, -1, -1, 1, 4]),
    "nothing on any rank": ([-1], []),
    "equal numbers of RoIs": ([0, 1, 4], [2, 0, 4]),
}
Result = tuple[list[dict[str, Tensor]], list[Tensor], list[Tensor]]


def features_of(step: int, rois: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(rois, 3, generator=generator)


def train(
    batches: list[tuple[Tensor, Tensor]],
    sync: bool,
    wrap: type | None = None,
    how: str = "plain",
) -> Result:
    """Return losses, gradients of the classifier and class counts, after each step.

    Args:
        batches: features and labels of each step.
        sync: sum counts over the ranks.
        wrap: wrapper of the model.
        how: "plain", "compiled", or the kind of activation checkpointing around the loss.
    """
    torch.manual_seed(0)
    classifier = nn.Linear(3, C + 2)
    model = wrap(classifier, broadcast_buffers=False) if wrap else classifier
    loss = SeesawLoss(C, sync=sync)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5)
    losses, gradients, counts = [], [], []

    def region(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return tuple(loss(logits, labels).values())

    for features, labels in batches:
        optimizer.zero_grad()
        if "reentrant" in how:
            values = checkpoint(region, model(features), labels, use_reentrant=how == "reentrant")
            losses.append(dict(zip(("classes", "objectness"), values, strict=True)))
        else:
            losses.append((compiled if how == "compiled" else loss)(model(features), labels))
        sum(losses[-1].values()).backward()
        gradients.append(classifier.weight.grad.clone())
        counts.append(loss.class_counts.clone())
        optimizer.step()
    return [{k: v.detach() for k, v in step.items()} for step in losses], gradients, counts


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


def train_compiled_on_this_rank() -> Result:
    return train(
        batches_of(dist.get_rank()), sync=True, wrap=DistributedDataParallel, how="compiled"
    )


def train_checkpointed_on_this_rank() -> list[tuple[Result, int]]:
    """Return the results and the number of sums over the ranks, by kind of checkpointing."""
    results = []
    for how in ("plain", "reentrant", "not reentrant"):
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
            result = train(batches_of(dist.get_rank()), True, DistributedDataParallel, how)
        results.append((result, all_reduce.call_count))
    return results


def train_on_this_rank() -> dict[str, Any]:
    batches = batches_of(dist.get_rank())
    return {
        "synced": train(batches, sync=True, wrap=DistributedDataParallel),
        "local": train(batches, sync=False),
        "evaluated": evaluate_on_one_rank_only(),
    }


def evaluate_on_one_rank_only() -> dict[str, float] | None:
    """Compute a validation loss on rank 0 only, which would hang if it communicated."""
    if dist.get_rank() != 0:
        return None
    with torch.no_grad():
        losses = SeesawLoss(C)(torch.zeros(2, C + 2), torch.tensor([0, 4]))
    return {name: loss.item() for name, loss in losses.items()}


@cache
def on_two_ranks() -> list[dict[str, Any]]:
    return run_on_ranks(train_on_this_rank, world_size=2)


@cache
def in_one_process() -> Result:
    return train(batches_of(None), sync=True)


every_step = pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS.keys())


@every_step
def test_synced_counts_match_one_process(step):
    for rank in on_two_ranks():
        assert rank["synced"][2][step].tolist() == in_one_process()[2][step].tolist()


@every_step
def test_the_mean_of_the_losses_matches_one_process(step):
    losses = [rank["synced"][0][step] for rank in on_two_ranks()]
    mean = {name: (losses[0][name] + losses[1][name]) / 2 for name in losses[0]}
    assert_close(mean, in_one_process()[0][step])


@every_step
def test_averaged_gradients_match_one_process(step):
    for rank in on_two_ranks():
        assert_close(rank["synced"][1][step], in_one_process()[1][step])


def test_checkpointed_losses_match_plain_ones_and_communicate_once():
    for plain, *checkpointed in run_on_ranks(train_checkpointed_on_this_rank, world_size=2):
        for (losses, *rest), sums in checkpointed:
            values = [tuple(step.values()) for step in losses]
            expected = [tuple(step.values()) for step in plain[0][0]]
            assert_close((values, rest), (expected, list(plain[0][1:])), rtol=0, atol=0)
            assert sums == plain[1] == len(STEPS)


@pytest.mark.slow
def test_compiled_losses_match_eager_ones():
    compiled = run_on_ranks(train_compiled_on_this_rank, world_size=2)
    for index, rank in enumerate(on_two_ranks()):
        assert_close(compiled[index], rank["synced"])


def test_the_steps_change_the_classifier():
    # Without changes of the classifier, equal gradients would prove little.
    gradients = in_one_process()[1]
    assert (gradients[0] - gradients[-1]).abs().max() > 0.01


def test_counts_stay_local_without_sync():
    for index, rank in enumerate(on_two_ranks()):
        losses, gradients, counts = train(batches_of(index), sync=True)  # no process group here
        assert_close(rank["local"], (losses, gradients, counts))
    assert on_two_ranks()[0]["local"][2][-1].tolist() != on_two_ranks()[1]["local"][2][-1].tolist()


def test_a_validation_loss_does_not_communicate():
    expected = {
        "loss_cls_classes": torch.tensor(4.0).log() / 2,
        "loss_cls_objectness": torch.tensor(2.0).log(),
    }
    assert on_two_ranks()[0]["evaluated"] == pytest.approx(
        {k: v.item() for k, v in expected.items()}
    )


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
