"""Tests of the trainer on two ranks: one gradient exchange per step and no deadlock."""

from functools import cache

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from d2_seesaw.engine import Trainer
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.dist

NAN = float("nan")


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch):
        y = self.linear(torch.stack([image["x"] for image in batch]))
        return {"loss": y.float().square().mean()}


def images():
    generator = torch.Generator().manual_seed(7)
    return [{"x": torch.randn(3, generator=generator)} for _ in range(16)]


def trained(batches, wrap=None, **options):
    torch.manual_seed(0)
    model = Regression()
    wrapped = wrap(model) if wrap else model
    trainer = Trainer(wrapped, batches, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    before = model.linear.weight.detach().clone()
    error = None
    try:
        trainer.train(0, len(batches) // options.get("accumulate_steps", 1))
    except FloatingPointError as caught:
        error = str(caught)
    return before, model.linear.weight.detach(), error


def on_this_rank():
    """Run training with accumulation, and training in which only rank 1 gets a NaN."""
    rank = dist.get_rank()
    own = images()[rank::2]
    broken = [{"x": torch.full((3,), NAN if rank == 1 else 1.0)}]
    return {
        "accumulated": trained([own[:2], own[2:4], own[4:6], own[6:]], DistributedDataParallel,
                               accumulate_steps=2),
        "float32": trained([broken], DistributedDataParallel),
        "float16": trained([broken], DistributedDataParallel, amp_dtype="float16"),
    }  # fmt: skip


@cache
def on_two_ranks():
    return run_on_ranks(on_this_rank, world_size=2)


def test_accumulating_on_two_ranks_equals_one_process_on_all_images():
    _, expected, _ = trained([images()[:8], images()[8:]])
    for rank in on_two_ranks():
        before, after, error = rank["accumulated"]
        assert error is None
        assert not torch.equal(before, after)
        assert_close(after, expected)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_nan_on_one_rank_stops_all_ranks_before_the_weights_change(precision):
    for rank in on_two_ranks():
        before, after, error = rank[precision]
        assert error is not None
        assert "not finite at iteration 0" in error
        assert torch.equal(before, after)
