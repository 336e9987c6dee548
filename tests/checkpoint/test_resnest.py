from functools import cache

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from d2_seesaw.checkpoint import StrictCheckpointer, convert_resnest
from d2_seesaw.modeling.backbones import TimmBackbone

# Stem names in timm, mapped to mmdet's; convolutions and norms alternate.
STEM = {"conv1.0": "0", "conv1.1": "1", "conv1.3": "3", "conv1.4": "4", "conv1.6": "6", "bn1": "7"}


@cache
def weights():
    """Return the weights of a small ResNeSt. Tests share them and must not change them."""
    torch.manual_seed(0)
    return timm.create_model("resnest14d").state_dict()


def under_mmdets_names(state):
    renamed = {}
    for key, value in state.items():
        module, name = key.rsplit(".", 1)
        if module in STEM:
            key = f"stem.{STEM[module]}.{name}"
        if module != "fc":
            renamed[f"backbone.{key}"] = value
    return renamed


def detector(**options):
    """Return a backbone under the name it has in a detector."""
    bottom_up = TimmBackbone("resnest14d", **options)
    return nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": bottom_up})})


FORMS = {
    "timm's": lambda state: state,
    "mmdet's": under_mmdets_names,
    "mmdet's, in a checkpoint": lambda state: {"state_dict": under_mmdets_names(state)},
}


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("timm's", {}),
        ("mmdet's", {"norm": "FrozenBN"}),
        ("mmdet's, in a checkpoint", {"checkpoint": True}),
    ],
)
def test_a_resnest_file_can_initialize_a_training(tmp_path, form, options):
    torch.save(FORMS[form](weights()), tmp_path / "resnest.pth")
    model = detector(**options)
    StrictCheckpointer(model).load(str(tmp_path / "resnest.pth"))
    loaded = model["backbone"]["bottom_up"].body.state_dict()
    expected = {k: v for k, v in weights().items() if not k.startswith("fc.")}
    assert_close(dict(loaded), expected)


def test_timms_safetensors_file_can_initialize_a_training(tmp_path):
    save_file(weights(), tmp_path / "model.safetensors")
    model = detector()
    StrictCheckpointer(model).load(str(tmp_path / "model.safetensors"))
    loaded = model["backbone"]["bottom_up"].body.state_dict()
    assert_close(dict(loaded), {k: v for k, v in weights().items() if not k.startswith("fc.")})


def test_only_offsets_of_deformable_convolutions_may_be_missing():
    model = detector(dcn_stages=("res4",))
    converted = convert_resnest(weights(), model.state_dict())
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert unexpected == []
    offsets = "backbone.bottom_up.body.layer3.0.conv2.conv.conv_offset"
    assert {name for name in missing if not name.endswith("num_batches_tracked")} == {
        f"{offsets}.weight",
        f"{offsets}.bias",
    }


def test_weights_of_another_depth_are_refused_with_all_keys():
    with torch.device("meta"):
        deeper = TimmBackbone("resnest26d").state_dict()
    with pytest.raises(ValueError, match=r"another ResNeSt.*layer2\.1\.conv1\.weight") as error:
        convert_resnest(weights(), deeper)
    assert "layer4.1.conv3.weight" in str(error.value)


def test_a_model_without_a_resnest_is_refused():
    with pytest.raises(ValueError, match="expected one ResNeSt of timm in the model"):
        convert_resnest(weights(), ["head.weight"])
