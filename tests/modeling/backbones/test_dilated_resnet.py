import pytest
import torch
import torchvision
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from d2_seesaw.checkpoint import convert_torchvision_resnet
from d2_seesaw.modeling.backbones import DilatedBasicBlock, dilated_resnet_stages
from tests.support.configs import meta_device

STAGES = ["res2", "res3", "res4", "res5"]


def dilated_resnet(depth, output_stride, norm="FrozenBN"):
    stages = dilated_resnet_stages(depth, output_stride=output_stride, norm=norm)
    return ResNet(BasicStem(3, 64, norm=norm), stages, out_features=STAGES)


def randomized(model):
    """Randomize all batch-norm tensors, so that no two are alike."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.add_(torch.rand_like(tensor) * 0.2 - (0.3 if name.endswith("weight") else 0))
    return model.eval()


def dilate(layer, dilation):
    """Replace the stride of torchvision's ``layer`` by dilation.

    torchvision itself only supports this for Bottleneck, and leaves the first block undilated.
    """
    for module in layer.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)


def torchvision_features(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    features = {}
    for i, name in enumerate(STAGES, start=1):
        features[name] = x = getattr(model, f"layer{i}")(x)
    return features


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(
    ("output_stride", "dilations"), [(32, {}), (16, {4: 2}), (8, {3: 2, 4: 4})]
)
@torch.no_grad()
def test_matches_torchvisions_network_with_dilated_convolutions(depth, output_stride, dilations):
    source = randomized(getattr(torchvision.models, f"resnet{depth}")())
    model = dilated_resnet(depth, output_stride).eval()
    model.load_state_dict(convert_torchvision_resnet(source.state_dict(), model.state_dict()))
    for layer, dilation in dilations.items():
        dilate(getattr(source, f"layer{layer}"), dilation)
    x = torch.randn(1, 3, 64, 96)
    expected = torchvision_features(source.double(), x.double())
    found = model.double()(x.double())
    assert found["res5"].shape[-2:] == (64 // output_stride, 96 // output_stride)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_weights_have_the_names_and_shapes_of_the_plain_resnet(depth):
    options = {"stride_in_1x1": False} if depth >= 50 else {}
    with meta_device():
        stages = ResNet.make_default_stages(depth, **options)
        plain = ResNet(BasicStem(3, 64), stages, out_features=STAGES).state_dict()
        dilated = dilated_resnet(depth, 16, norm="BN").state_dict()
    assert {k: v.shape for k, v in dilated.items()} == {k: v.shape for k, v in plain.items()}


@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(32, (4, 8, 16, 32)), (16, (4, 8, 16, 16)), (8, (4, 8, 8, 8))],
)
def test_reports_the_strides_of_its_features(output_stride, strides):
    shapes = dilated_resnet(18, output_stride).output_shape()
    assert tuple(shapes[name].stride for name in STAGES) == strides


@torch.no_grad()
def test_a_dilated_block_is_the_plain_block_on_every_other_pixel():
    plain = randomized(BasicBlock(8, 12))
    dilated = DilatedBasicBlock(8, 12, dilation=2).eval()
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 10, 14)
    found = dilated(x)
    for row in (0, 1):
        for column in (0, 1):
            lattice = (..., slice(row, None, 2), slice(column, None, 2))
            torch.testing.assert_close(found[lattice], plain(x[lattice]))


@torch.no_grad()
def test_without_dilation_a_block_matches_detectron2():
    plain = randomized(BasicBlock(8, 12, stride=2))
    block = DilatedBasicBlock(8, 12, stride=2).eval()
    block.load_state_dict(plain.state_dict())
    x = torch.randn(1, 8, 9, 9)
    assert torch.equal(block(x), plain(x))
    assert block.stride == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 26}, r"depth must be one of \[18, 34, 50, 101, 152\], got 26"),
        ({"depth": 18, "output_stride": 4}, r"output_stride must be one of \[32, 16, 8\], got 4"),
        ({"depth": 18, "multi_grid": []}, r"multi_grid must be integers of at least 1, got \[\]"),
        ({"depth": 18, "multi_grid": [1, 0]}, r"multi_grid must be .*, got \[1, 0\]"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        dilated_resnet_stages(**options)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_multi_grid_gives_the_number_and_dilation_of_the_last_blocks(bottleneck):
    with meta_device():
        *_, res4, res5 = dilated_resnet_stages(18, bottleneck=bottleneck, multi_grid=[1, 2, 4])
    assert [block.conv2.dilation[0] for block in res4] == [1, 1]
    assert [block.conv2.dilation[0] for block in res5] == [2, 4, 8]
    assert res5[-1].out_channels == (2048 if bottleneck else 512)
