"""Tests of norms in one process; ``tests/distributed/test_batch_norm_ranks.py`` uses two."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import (
    FrozenStatisticsBatchNorm2d,
    SyncBatchNorm2d,
    frozen_statistics_batch_norm,
    layer_norm,
    sync_batch_norm,
)


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
    assert frozen_statistics_batch_norm(eps=1e-3)(6).eps == 1e-3


def test_with_frozen_statistics_it_trains_as_batch_norm_in_evaluation_mode():
    statistics = {"running_mean": torch.randn(6), "running_var": torch.rand(6) + 0.5}
    weights = {"weight": torch.randn(6), "bias": torch.randn(6), **statistics}
    ours = FrozenStatisticsBatchNorm2d(6)
    ours.load_state_dict(weights)
    theirs = nn.BatchNorm2d(6).eval()
    theirs.load_state_dict(weights)
    x = torch.randn(3, 6, 5, 4)
    output, gradient, gradients, _ = step(nn.Sequential(ours).train(), x)
    assert_close((output, gradient, gradients), step(theirs, x)[:3], rtol=0, atol=0)
    assert all(g.any() for g in gradients)
    assert_close(ours.state_dict(), weights, rtol=0, atol=0, check_stride=False)
    assert not ours.training


def resnet(norm):
    stages = ResNet.make_default_stages(18, norm=norm)
    return ResNet(BasicStem(norm=norm), stages, out_features=["res5"], freeze_at=2)


def test_frozen_statistics_work_in_a_resnet_and_load_weights_of_other_norms():
    model = resnet(frozen_statistics_batch_norm()).train()
    kinds = {name: type(m) for name, m in model.named_modules() if name.endswith("norm")}
    for name, kind in kinds.items():
        frozen = name.startswith(("stem", "res2"))
        assert kind == (FrozenBatchNorm2d if frozen else FrozenStatisticsBatchNorm2d), name
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if "norm" in name} == {
        f"{name}.{part}"
        for name in kinds
        for part in ("weight", "bias")
        if not name.startswith(("stem", "res2"))
    }
    assert not any(name.startswith(("stem", "res2")) for name in trained)
    frozen = resnet("FrozenBN")
    model.load_state_dict(frozen.state_dict())
    frozen.load_state_dict(model.state_dict())
    model.load_state_dict(dict(frozen.state_dict()))  # without versions, as a converted file has
    resnet_weights = ResNet(BasicStem(norm="BN"), ResNet.make_default_stages(18, norm="BN"))
    model.load_state_dict(
        {k: v for k, v in resnet_weights.state_dict().items() if not frozen_counter(k)}
    )


def frozen_counter(key):
    """Return whether a count of batches belongs to a layer that FrozenBN replaces."""
    return key.startswith(("stem", "res2")) and key.endswith("num_batches_tracked")
