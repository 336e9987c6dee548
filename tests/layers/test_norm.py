"""Tests of norms in one process; ``tests/distributed/test_batch_norm_ranks.py`` uses two."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import SyncBatchNorm2d, layer_norm, sync_batch_norm


def step(norm, x):
    """Run a training step with distinct upstream gradients; return all that it computes."""
    x = x.clone().requires_grad_()
    output = norm(x)
    output.backward(torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x))
    gradients = [p.grad for p in norm.parameters()]
    return output.detach(), x.grad, gradients, dict(norm.named_buffers())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_in_one_process_it_equals_batch_norm(dtype):
    x = (3 * torch.randn(3, 6, 5, 4) + 7).to(dtype)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    ours = step(SyncBatchNorm2d(6).to(kind), x)
    assert_close(ours, step(nn.BatchNorm2d(6).to(kind), x), rtol=0, atol=0)
    assert ours[0].dtype == dtype


def test_in_one_process_an_empty_batch_changes_no_statistics():
    output, _, gradients, buffers = step(SyncBatchNorm2d(6), torch.zeros(0, 6, 5, 4))
    assert output.shape == (0, 6, 5, 4)
    assert not any(gradient.any() for gradient in gradients)
    assert_close(buffers["running_mean"], torch.zeros(6))
    assert_close(buffers["running_var"], torch.ones(6))


def test_weights_have_the_names_of_batch_norm():
    nn.BatchNorm2d(6).load_state_dict(SyncBatchNorm2d(6).state_dict())


def test_the_factories_pass_their_arguments_on():
    norm = sync_batch_norm(eps=1e-3, momentum=0.2)(6)
    assert (norm.num_features, norm.eps, norm.momentum) == (6, 1e-3, 0.2)
    assert layer_norm()(6).eps == 1e-6
    assert layer_norm(eps=1e-3)(6).normalized_shape == (6,)
