import pytest
import torch
import torchvision
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn

from d2_seesaw.checkpoint import convert_torchvision_resnet


def detectron2_resnet(depth, norm="FrozenBN"):
    options = {"stride_in_1x1": False} if depth >= 50 else {}
    return ResNet(
        BasicStem(3, 64, norm=norm),
        ResNet.make_default_stages(depth, norm=norm, **options),
        out_features=["res2", "res3", "res4", "res5"],
    )


def randomized(model):
    """Randomize all batch-norm tensors, so that swapped tensors are detected."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.add_(torch.rand_like(tensor) * 0.2 - (0.3 if name.endswith("weight") else 0))
    return model.eval()


def torchvision_features(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    features = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        features[f"res{int(name[-1]) + 1}"] = x = getattr(model, name)(x)
    return features


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_converted_weights_give_torchvisions_features(depth):
    source = randomized(getattr(torchvision.models, f"resnet{depth}")())
    model = detectron2_resnet(depth).eval()
    model.load_state_dict(convert_torchvision_resnet(source.state_dict(), model.state_dict()))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), torchvision_features(source, x), rtol=1e-4, atol=1e-4)


def test_the_backbone_is_found_inside_a_larger_model():
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": detectron2_resnet(18, "BN")})})
    converted = convert_torchvision_resnet(
        torchvision.models.resnet18().state_dict(), model.state_dict()
    )
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert unexpected == []
    assert all(key.endswith("num_batches_tracked") for key in missing)


def test_weights_of_another_depth_are_refused_with_all_keys():
    with pytest.raises(ValueError, match=r"another ResNet.*res2\.0\.conv3\.weight") as error:
        convert_torchvision_resnet(
            torchvision.models.resnet18().state_dict(), detectron2_resnet(50).state_dict()
        )
    assert "res4.5.conv1.weight" in str(error.value)


def test_a_model_without_a_resnet_is_refused():
    with pytest.raises(ValueError, match="expected one Detectron2 ResNet"):
        convert_torchvision_resnet(torchvision.models.resnet18().state_dict(), ["head.weight"])
