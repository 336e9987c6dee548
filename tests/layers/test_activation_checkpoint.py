from functools import partial

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import SyncBatchNorm2d
from d2_seesaw.layers.activation_checkpoint import checkpointed
from tests.support.operators import SavedForBackward


def block(momentum=0.1):
    layers = [(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU())] * 3
    return nn.Sequential(*(layer for three in layers for layer in three))


def copy_of(module):
    copy = block(module[1].momentum)
    copy.load_state_dict(module.state_dict())
    return copy


@pytest.mark.parametrize("momentum", [0.1, None])
def test_gradients_and_statistics_match_a_plain_call(momentum):
    plain = block(momentum)
    ours = copy_of(plain)
    for _ in range(2):
        x = torch.randn(2, 4, 6, 5, requires_grad=True)
        (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
        (gradient,) = torch.autograd.grad(checkpointed(ours, x).square().sum(), x)
        assert_close(gradient, expected)
        assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert ours[1].momentum == momentum


@pytest.mark.parametrize("norm", [nn.SyncBatchNorm, SyncBatchNorm2d, BatchNormAct2d])
def test_statistics_of_synchronized_and_fused_norms_match_a_plain_call(norm):
    plain, ours = norm(4), norm(4)
    x = 3 * torch.randn(2, 4, 6, 5) + 1
    for call in (plain, partial(checkpointed, ours)):
        call(x.clone().requires_grad_()).square().sum().backward()
    assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert ours.running_mean.any()


def test_norms_in_evaluation_mode_keep_their_buffers():
    ours = block().eval()
    mean = ours[1].running_mean
    checkpointed(ours, torch.randn(2, 4, 6, 5, requires_grad=True)).sum().backward()
    assert ours[1].running_mean is mean


def test_only_the_input_is_saved_for_the_backward_pass():
    x = torch.randn(2, 4, 6, 5, requires_grad=True)
    with SavedForBackward() as saved:
        checkpointed(block(), x)
    assert saved.nbytes() <= x.nbytes


def test_recomputation_repeats_the_dropout_mask():
    x = torch.ones(1000, requires_grad=True)
    y = checkpointed(nn.Sequential(nn.Dropout(0.5), nn.Hardtanh(0, 9)), x)
    torch.rand(1)
    y.sum().backward()
    assert_close(x.grad, y.detach())


def test_lists_of_tensors_are_accepted():
    class Sum(nn.Module):
        def forward(self, tensors):
            return [tensors[0] + tensors[1], tensors[0] * tensors[1]]

    a, b = torch.randn(2, 3, requires_grad=True)
    total, product = checkpointed(Sum(), [a, b])
    assert_close((total, product), (a + b, a * b))
