import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import SyncBatchNorm2d, activation_checkpoint
from tests.helpers import OperatorLog


def block(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), norm(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), norm(4)
    )


def step(module):
    x = torch.linspace(-1, 1, 2 * 4 * 5 * 5).reshape(2, 4, 5, 5).requires_grad_()
    output = module(x)
    (output**3).sum().backward()
    return {
        "output": output.detach(),
        "input grad": x.grad,
        "gradients": [p.grad for p in module.parameters()],
        "statistics": [b.clone() for b in module.buffers()],
    }


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, SyncBatchNorm2d, nn.SyncBatchNorm])
def test_outputs_gradients_and_running_statistics_are_those_without(norm):
    expected = step(block(norm))
    assert_close(step(activation_checkpoint(block(norm))), expected, rtol=0, atol=0)
    assert any((s != 0).any() for s in expected["statistics"])


def test_the_block_is_computed_twice():
    counts = []
    for module in (block(), activation_checkpoint(block())):
        with OperatorLog() as log:
            step(module)
        counts.append(log.calls["aten.convolution"])
    assert counts == [2, 4]


def test_a_later_step_counts_again():
    plain, wrapped = block(), activation_checkpoint(block())
    for _ in range(2):
        step(plain)
        step(wrapped)
    assert wrapped.state_dict()["1.num_batches_tracked"] == 2
    assert_close(wrapped.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_weights_keep_their_names():
    wrapped = activation_checkpoint(block())
    assert list(wrapped.state_dict()) == list(block().state_dict())
    wrapped.load_state_dict(block().state_dict())


def test_a_copy_has_statistics_of_its_own():
    original = activation_checkpoint(block())
    duplicate = copy.deepcopy(original)
    assert_close(step(duplicate), step(block()), rtol=0, atol=0)
    assert original.state_dict()["1.num_batches_tracked"] == 0


def test_evaluation_uses_the_running_statistics():
    plain, wrapped = block().eval(), activation_checkpoint(block()).eval()
    assert_close(step(wrapped), step(plain), rtol=0, atol=0)
