import pytest
import timm
import torch
from detectron2.layers import FrozenBatchNorm2d
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import SyncBatchNorm2d
from d2_seesaw.modeling.backbones.timm import replace_batch_norms
from tests.support.configs import meta_device


def model():
    """Return a model with plain, nested and fused batch norms."""
    torch.manual_seed(0)
    fused = BatchNormAct2d(4, eps=1e-3, act_layer=nn.SiLU)
    model = nn.Sequential(
        nn.BatchNorm2d(4, eps=1e-2), nn.Sequential(nn.BatchNorm2d(4, momentum=0.3)), fused
    )
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def replaced(kind):
    other = model()
    replace_batch_norms(other, kind)
    return other


def image(dtype=torch.float32):
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("kind", ["BN", "FrozenBN", "SyncBN"])
@torch.no_grad()
def test_all_kinds_agree_in_evaluation_mode(kind):
    assert_close(replaced(kind).eval()(image()), model().eval()(image()))


@torch.no_grad()
def test_frozen_norms_behave_in_training_as_in_evaluation():
    frozen = replaced("FrozenBN").train()
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    assert_close(frozen(image()), model().eval()(image()))
    assert_close(frozen.state_dict(), before, rtol=0, atol=0)
    assert list(frozen.parameters()) == []


def test_frozen_norms_are_those_of_detectron2_and_keep_half_precision():
    frozen = replaced("FrozenBN")
    assert isinstance(frozen[0], FrozenBatchNorm2d)
    half = image(torch.bfloat16).requires_grad_()
    assert frozen[:2](half).dtype == torch.bfloat16


def test_synchronized_norms_agree_with_plain_ones_in_one_process():
    plain, synchronized = model(), replaced("SyncBN")
    assert isinstance(synchronized[1][0], SyncBatchNorm2d)
    assert isinstance(synchronized[2], nn.SyncBatchNorm)
    assert isinstance(synchronized[2].act, nn.SiLU)
    assert_close(synchronized(image()), plain(image()))
    assert_close(synchronized.state_dict(), plain.state_dict())  # eps and momentum were kept


def test_weights_stay_the_same_parameters():
    plain = model()
    weight = plain[0].weight
    replace_batch_norms(plain, "SyncBN")
    assert plain[0].weight.data_ptr() == weight.data_ptr()


def test_models_on_the_meta_device_are_converted():
    with meta_device():
        network = timm.create_model("resnet18")
        replace_batch_norms(network, "SyncBN")
    assert network.bn1.running_mean.is_meta
    assert isinstance(network.bn1, SyncBatchNorm2d)


@pytest.mark.parametrize("kind", ["FrozenBN", "SyncBN"])
def test_a_model_without_batch_norms_is_rejected(kind):
    with pytest.raises(ValueError, match=f"no batch norm to replace by '{kind}'"):
        replace_batch_norms(nn.Sequential(nn.LayerNorm(4)), kind)


def test_an_unknown_kind_is_reported():
    with pytest.raises(ValueError, match="one of BN, FrozenBN, SyncBN, got 'GN'"):
        replace_batch_norms(model(), "GN")
