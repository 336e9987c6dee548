"""Weights in safetensors files: bit-equal, accepted wherever a .pth file is, refused if damaged."""

import json
import os
import struct
import sys

import pytest
import torch
import torchvision
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from safetensors.torch import load_file, save_file
from torch import nn

from d2_seesaw.checkpoint import (
    StrictCheckpointer,
    read_class_metadata,
    read_mmdet_file,
    save_weights,
)
from tests.checkpoint.test_contents import Counting

METADATA = {
    "dataset": "d",
    "class_names": ["<b>", "犬", "c"],
    "category_ids": [7, "x", 40],
    "class_colors": [[0, 1, 255]] * 3,
}


def unusual():
    """Return tensors of every dtype that is written, and of every layout in memory."""
    torch.manual_seed(0)
    base = torch.randn(4, 6, 5, 5)
    odd = torch.tensor([float("-0.0"), float("inf"), float("nan"), 1e-45])
    return {
        "plain": base,
        "tied": base,
        "view": base[1:3],
        "transposed": base.transpose(0, 1),
        "channels_last": base.clone().to(memory_format=torch.channels_last),
        "expanded": torch.randn(1, 3).expand(4, 3),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "also_empty": torch.zeros(0),
        "parameter": nn.Parameter(torch.randn(3)),
        "odd": odd,
        "class_counts": torch.tensor([0, 2**53 + 1, 2**63 - 1]),
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32)
        },
        **{str(d): odd.to(d) for d in (torch.float16, torch.bfloat16, torch.float64)},
    }


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def test_every_dtype_and_layout_is_bit_equal_after_writing_and_reading(tmp_path):
    weights = unusual()
    save_weights(tmp_path / "m.safetensors", weights, METADATA)
    again = load_file(tmp_path / "m.safetensors")
    assert again.keys() == weights.keys()
    for name, value in weights.items():
        assert (again[name].dtype, again[name].shape) == (value.dtype, value.shape), name
        assert torch.equal(bits(again[name]), bits(value)), name
    assert read_class_metadata(tmp_path / "m.safetensors") == METADATA


def test_the_file_has_the_mode_of_any_new_file_and_no_partial_file_is_left(tmp_path):
    before = os.umask(0o027)
    try:
        save_weights(tmp_path / "m.safetensors", {"a": torch.ones(2)})
        with pytest.raises(ValueError, match="'b'"):
            save_weights(tmp_path / "bad.safetensors", {"a": torch.ones(2), "b": 3})
    finally:
        os.umask(before)
    assert os.stat(tmp_path / "m.safetensors").st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("a", [1.0], "a list instead of a tensor"),
        ("a", torch.ones(2, dtype=torch.complex64), "its dtype is torch.complex64"),
        ("a", torch.ones(2).to(torch.float8_e4m3fn), "its dtype is torch.float8_e4m3fn"),
        ("a", torch.eye(2).to_sparse(), "not a dense tensor"),
        ("a", torch.ones(2, device="meta"), "on meta"),
        (7, torch.ones(2), "the name must be text"),
        ("__metadata__", torch.ones(2), "the name must be text other than '__metadata__'"),
    ],
)
def test_a_value_that_the_format_cannot_hold_is_refused_with_its_key(tmp_path, key, value, fault):
    with pytest.raises(ValueError, match=fault) as error:
        save_weights(tmp_path / "m.safetensors", {"fine": torch.ones(1), key: value})
    assert repr(key) in str(error.value)
    with pytest.raises(ValueError, match=r"'optimizer' cannot .* a dict\. Use a \.pth file"):
        save_weights(tmp_path / "m.safetensors", {"fine": torch.ones(1)}, optimizer={})


def trained(seed):
    torch.manual_seed(seed)
    model = Counting()
    model.class_counts += seed
    return model


def test_a_model_is_loaded_with_its_class_names_as_from_a_pth_file(tmp_path):
    source, names = trained(5), {k: v for k, v in METADATA.items() if k != "class_colors"}
    for suffix in ("pth", "safetensors"):
        save_weights(tmp_path / f"m.{suffix}", source.state_dict(), names)
        model = trained(9)
        loaded = StrictCheckpointer(model, require_all=True).load(str(tmp_path / f"m.{suffix}"))
        assert loaded["metadata"] == names
        assert read_class_metadata(tmp_path / f"m.{suffix}") == names
        for name, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)


def test_a_file_that_lacks_weights_is_refused_by_their_names(tmp_path):
    save_weights(tmp_path / "m.safetensors", {"linear.weight": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match=r"linear\.bias: missing in the checkpoint"):
        StrictCheckpointer(Counting(), require_all=True).load(str(tmp_path / "m.safetensors"))


def test_a_backbone_of_another_program_is_converted_as_from_a_pth_file(tmp_path):
    source = torchvision.models.resnet18()
    save_file(source.state_dict(), tmp_path / "resnet18.safetensors")
    backbone = ResNet(BasicStem(3, 64), ResNet.make_default_stages(18))
    StrictCheckpointer(backbone).load(str(tmp_path / "resnet18.safetensors"))
    assert torch.equal(backbone.state_dict()["res3.0.conv1.weight"], source.layer2[0].conv1.weight)
    assert read_class_metadata(tmp_path / "resnet18.safetensors") == {}


def test_weights_of_mmdet_can_be_read(tmp_path):
    save_file({"backbone.x": torch.ones(2)}, tmp_path / "m.safetensors", {"format": "pt"})
    assert read_mmdet_file(tmp_path / "m.safetensors").state["backbone.x"].tolist() == [1, 1]


def file_of(header, data=b"\0" * 8, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


DAMAGED = {
    "empty": (b"", "not a whole"),
    "header beyond the file": (file_of({}, size=2**63), "header too large"),
    "huge header": (file_of({}, size=200_000_000), "header too large"),
    "no JSON": (file_of(b"{["), "JSON"),
    "truncated": (file_of({"a": entry()}, b"\0" * 4), "not fully covered"),
    "text behind": (file_of({"a": entry()}, b"\0" * 9), "not fully covered"),
    "overlap": (file_of({"a": entry(), "b": entry()}), "invalid offset"),
    "huge shape": (file_of({"a": entry(shape=(2**40, 2**40))}), "overflow"),
    "fp8": (file_of({"a": entry("F8_E4M3", (8,))}), "'a' has the dtype F8_E4M3; expected one of"),
    "fp4": (file_of({"a": entry("F4", (16,))}), "'a' has the dtype F4; expected one of BOOL"),
    "complex": (file_of({"a": entry("C64", (1,))}), "'a' has the dtype C64"),
    "unknown dtype": (file_of({"a": entry("X1")}), "X1"),
    "no tensors": (file_of({}, b""), "has no tensors"),
    "pickle": (b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01", "not a whole"),
    "values": (file_of({"linear.bias": entry()}, b"\0\0\xc0\x7f" * 2), "2 of 2 values are NaN"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path, damage):
    content, message = DAMAGED[damage]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert read_class_metadata(path) == {}
    with pytest.raises(ValueError, match=r"m\.safetensors cannot be read: ") as error:
        StrictCheckpointer(Counting()).load(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_changed_byte_of_a_tensor_is_noticed(tmp_path, place):
    path = tmp_path / "m.safetensors"
    save_weights(path, Counting().state_dict())
    data = bytearray(path.read_bytes())
    data[-1 if place == "end" else 8 + struct.unpack("<Q", data[:8])[0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="do not have the checksum in its header"):
        StrictCheckpointer(Counting()).load(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d2_seesaw_format": "2"}, "its format version is '2', this d2_seesaw reads up to 1"),
        ({"d2_seesaw_format": "-1"}, "its format version is '-1'"),
        ({"class_names": "[1]"}, r"class_names in its header must be a list of names .*'\[1\]'"),
        ({"class_names": "[" * 10**6}, "class_names in its header must be a list of names"),
        ({"class_names": '["a"]', "category_ids": "[1, 2]"}, "are of different length"),
        ({"category_ids": "[true]"}, "category_ids in its header must be a list of numbers"),
        ({"class_colors": "[[0, 0, 256]]"}, "class_colors in its header must be a list of RGB"),
        ({"dataset": "{}"}, "dataset in its header must be a name"),
    ],
)
def test_class_metadata_that_cannot_be_right_are_refused(tmp_path, changes, message):
    path = tmp_path / "m.safetensors"
    save_file(Counting().state_dict(), path, {"d2_seesaw_format": "1", **changes})
    with pytest.raises(ValueError, match=message) as error:
        StrictCheckpointer(Counting()).load(str(path))
    assert len(str(error.value)) < 400


def test_without_the_package_the_error_has_the_command_that_installs_it(tmp_path, monkeypatch):
    save_weights(tmp_path / "m.safetensors", Counting().state_dict())
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        lambda: StrictCheckpointer(Counting()).load(str(tmp_path / "m.safetensors")),
        lambda: save_weights(tmp_path / "n.safetensors", Counting().state_dict()),
    ):
        with pytest.raises(ValueError, match=r"pip install safetensors$"):
            call()
