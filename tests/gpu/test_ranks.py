"""Tests of two ranks on the GPU: counts of Seesaw Loss and synchronized batch norm.

Without a second GPU both ranks use the first one, which gloo allows and NCCL does not.
"""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2_seesaw.layers import SyncBatchNorm2d
from d2_seesaw.losses import SeesawLoss
from tests.gpu.agreement import TEST_DEVICE, assert_close_to
from tests.support.ranks import run_on_ranks

pytestmark = [pytest.mark.gpu, pytest.mark.dist]

RANKS = 2
CLASSES = 1203
CHANNELS = 6
# Shapes (N, H, W) of the batches of both ranks.
SHAPES = {
    "unequal numbers": ((3, 5, 4), (5, 5, 4)),
    "none on rank 1": ((4, 5, 4), (0, 5, 4)),
    "unequal sizes": ((2, 3, 4), (2, 7, 5)),
}


def device_of_rank() -> torch.device:
    if TEST_DEVICE != "cuda":
        return torch.device(TEST_DEVICE)
    return torch.device("cuda", dist.get_rank() % torch.cuda.device_count())


def sampled_rois() -> tuple[Tensor, Tensor]:
    """Draw ``(R, C + 2)`` logits and labels of both ranks together."""
    generator = torch.Generator().manual_seed(0)
    labels = (CLASSES * torch.rand(64, generator=generator) ** 3).long()
    labels[::2] = CLASSES
    labels[::17] = -1
    return torch.randn(64, CLASSES + 2, generator=generator), labels


def batch_of_rank(step: str, rank: int) -> tuple[Tensor, Tensor]:
    """Draw the input of a batch norm and the gradient of its output; the mean is large."""
    generator = torch.Generator().manual_seed(RANKS * list(SHAPES).index(step) + rank)
    count, height, width = SHAPES[step][rank]
    x, grad = torch.randn(2, count, CHANNELS, height, width, generator=generator)
    return x + 10, grad


def parameters_of_a_norm() -> dict[str, Tensor]:
    """Draw random weights and biases of a batch norm."""
    weight, bias = torch.rand(2, CHANNELS, generator=torch.Generator().manual_seed(0)) + 0.5
    return {"weight": weight, "bias": bias}


def results_of_this_rank() -> dict[str, Any]:
    """Run the loss on half of the RoIs, and batch norm on the batches of this rank."""
    rank, device = dist.get_rank(), device_of_rank()
    loss = SeesawLoss(CLASSES).to(device)
    losses = loss(*(tensor[rank::RANKS].to(device) for tensor in sampled_rois()))
    losses = {name: value.detach().cpu() for name, value in losses.items()}
    results: dict[str, Any] = {"losses": losses, "counts": loss.class_counts.cpu()}
    for step in SHAPES:
        norm = SyncBatchNorm2d(CHANNELS)
        norm.load_state_dict(parameters_of_a_norm(), strict=False)
        norm = norm.to(device)
        x, grad = (tensor.to(device) for tensor in batch_of_rank(step, rank))
        output = norm(x.requires_grad_())
        output.backward(grad)
        found = {"output": as_rows(output), "input gradient": as_rows(x.grad)}
        found |= dict(norm.named_buffers())
        results[step] = {name: tensor.detach().cpu() for name, tensor in found.items()}
    return results


def as_rows(x: Tensor) -> Tensor:
    """Reshape to ``(N * H * W, C)``, so that maps of different sizes fit into one batch."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.fixture(scope="module")
def rank_results() -> list[dict[str, Any]]:
    return run_on_ranks(results_of_this_rank, world_size=RANKS)


def test_counts_of_all_ranks_match_one_process(rank_results):
    alone = SeesawLoss(CLASSES)
    alone(*sampled_rois())
    for found in rank_results:
        assert torch.equal(found["counts"], alone.class_counts)


def test_the_mean_of_the_losses_matches_one_process(rank_results):
    expected = SeesawLoss(CLASSES)(*sampled_rois())
    for name, value in expected.items():
        mean = torch.stack([found["losses"][name] for found in rank_results]).mean()
        torch.testing.assert_close(mean, value.detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("step", SHAPES)
def test_batch_norm_matches_all_values_on_the_cpu(step, rank_results):
    batches = [batch_of_rank(step, rank) for rank in range(RANKS)]
    x, grad = (
        torch.cat([as_rows(tensor) for tensor in tensors]).double()
        for tensors in zip(*batches, strict=True)
    )
    norm = nn.BatchNorm1d(CHANNELS).double()
    norm.load_state_dict(parameters_of_a_norm(), strict=False)
    output = norm(x.requires_grad_())
    output.backward(grad)
    sizes = [len(as_rows(x)) for x, _ in batches]
    outputs, gradients = output.detach().split(sizes), x.grad.split(sizes)
    for rank in range(RANKS):
        expected = {"output": outputs[rank], "input gradient": gradients[rank]}
        assert_close_to(rank_results[rank][step], expected | dict(norm.named_buffers()), 1e-4)
