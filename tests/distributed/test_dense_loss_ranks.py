"""Tests of dense losses on two ranks against one process with the whole batch.

Shapes: N images of 2 x 3 pixels over all ranks, C = 4 classes.
"""

from functools import cache

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from d2_seesaw.losses import (
    DiceLoss,
    FocalLoss,
    InverseFrequencyLoss,
    LovaszLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
)
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.dist

C = 4
LOSSES = {
    "seesaw": lambda sync: SeesawCrossEntropyLoss(C, sync=sync),
    "seesaw chunked": lambda sync: SeesawCrossEntropyLoss(C, chunk_size=4, sync=sync),
    "inverse frequency": lambda sync: InverseFrequencyLoss(C, sync=sync),
    "given frequency": lambda sync: InverseFrequencyLoss(C, class_counts=[9, 2, 5, 0], sync=sync),
    "recall": lambda sync: RecallLoss(C, sync=sync),
    "recall ref": lambda sync: RecallLoss(C, reduction="ref", sync=sync),
    "recall weighted": lambda sync: RecallLoss(C, reduction="weighted_mean", sync=sync),
    "recall momentum": lambda sync: RecallLoss(C, momentum=0.5, sync=sync),
}
# Losses that each rank computes from its own pixels.
PER_RANK = {
    "dice": lambda sync: DiceLoss(C),
    "lovasz": lambda sync: LovaszLoss(C),
    "focal": lambda sync: FocalLoss(C),
}
# Number of images in each step, by rank. Every other step has an ignored row.
STEPS = [(1, 3), (2, 0), (2, 2), (0, 1)]
Result = list[tuple[Tensor, Tensor, dict[str, Tensor]]]


def batch_of(step: int, rank: int | None) -> tuple[Tensor, Tensor]:
    """Return features (N, 3, 2, 3) and labels (N, 2, 3) of a rank; None combines all ranks."""
    generator = torch.Generator().manual_seed(step)
    images = sum(STEPS[step])
    features = torch.randn(images, 3, 2, 3, generator=generator)
    labels = torch.randint(C, (images, 2, 3), generator=generator)
    if step % 2 == 0:
        labels[0, 0] = 255
    if rank is None:
        return features, labels
    start = sum(STEPS[step][:rank])
    part = slice(start, start + STEPS[step][rank])
    return features[part], labels[part]


def train(name: str, sync: bool, rank: int | None, parts: tuple[int | None, ...] = ()) -> Result:
    """Return loss, gradient of the classifier and buffers of the loss, after each step.

    With ``parts``, one process averages the losses of the images of these ranks.
    """
    torch.manual_seed(0)
    classifier: nn.Module = nn.Conv2d(3, C, 1)
    weight = classifier.weight
    if rank is not None:
        classifier = DistributedDataParallel(classifier, broadcast_buffers=False)
    loss = (LOSSES | PER_RANK)[name](sync)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5)
    results = []
    for step in range(len(STEPS)):
        optimizer.zero_grad()
        batches = [batch_of(step, part) for part in parts or (rank,)]
        value = torch.stack([loss(classifier(x), labels) for x, labels in batches]).mean()
        value.backward()
        buffers = {key: buffer.clone() for key, buffer in loss.named_buffers()}
        results.append((value.detach(), weight.grad.clone(), buffers))
        optimizer.step()
    return results


def train_all_on_rank(sync: bool) -> dict[str, Result]:
    return {name: train(name, sync, dist.get_rank()) for name in LOSSES}


def train_library_losses_on_rank() -> dict[str, Result]:
    return {name: train(name, False, dist.get_rank()) for name in PER_RANK}


@cache
def on_two_ranks(sync: bool) -> list[dict[str, Result]]:
    return run_on_ranks(train_all_on_rank, sync, world_size=2)


@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_equal_one_process_on_the_whole_batch(name):
    alone = train(name, True, None)
    for step, (loss, gradient, buffers) in enumerate(alone):
        by_rank = [on_two_ranks(True)[rank][name][step] for rank in range(2)]
        assert_close(torch.stack([result[0] for result in by_rank]).mean(), loss)
        for result in by_rank:
            assert_close(result[1], gradient)
            assert_close(result[2], buffers)


@pytest.mark.slow
def test_losses_of_the_library_are_averaged_over_the_ranks():
    results = run_on_ranks(train_library_losses_on_rank, world_size=2)
    for name in PER_RANK:
        for step, (loss, gradient, _) in enumerate(train(name, False, None, parts=(0, 1))):
            by_rank = [results[rank][name][step] for rank in range(2)]
            assert_close(torch.stack([result[0] for result in by_rank]).mean(), loss)
            for result in by_rank:
                assert_close(result[1], gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_without_sync_each_rank_has_its_own_counts(name):
    by_rank = [on_two_ranks(False)[rank][name] for rank in range(2)]
    assert (by_rank[0][0][0] - by_rank[1][0][0]).abs() > 1e-3
    for key, buffer in by_rank[0][0][2].items():
        if key == "class_counts" and name != "given frequency":
            _, labels = batch_of(0, 0)
            assert buffer.sum() == (labels != 255).sum()


def validate_on_rank_0_alone() -> float:
    """Compute a validation loss on rank 0, which must not wait for other ranks."""
    values = 0.0
    if dist.get_rank() == 0:
        for name in LOSSES:
            loss = LOSSES[name](True).eval()
            with torch.no_grad():
                values += loss(torch.zeros(1, C, 2, 3), torch.ones(1, 2, 3).long()).item()
    dist.barrier()
    return values


def test_validation_does_not_communicate():
    assert run_on_ranks(validate_on_rank_0_alone, world_size=2, timeout=60)[0] > 0
