"""Damaged checkpoints of this project and of mmdet: loaded exactly, or refused with a line."""

import io
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.mmdet import convert_mmdet, describe_mmdet, read_mmdet_file
from d2_seesaw.checkpoint.pickles import read_pickle
from d2_seesaw.engine.config import _call_nodes, load_config, target_of
from d2_seesaw.losses import SeesawLoss
from tests.fuzz.harness import ENCODINGS, PLACE, outcome

NAN = float("nan")
VALUES = (
    *(None, True, 1, -1, 0.5, "x", b"x", [], {}, [1.0], torch.zeros(0), torch.tensor(NAN)),
    *(torch.zeros(3, 2), torch.full((4, 4), NAN), torch.zeros(4, 4, dtype=torch.complex64)),
    *(
        torch.full((6,), -7),
        torch.full((6,), 0.5),
        torch.full((6,), 2**62),
        torch.zeros(4, 4).bool(),
    ),
    *(torch.zeros(4, 4, device="meta"), torch.zeros(4, 4).to_sparse(), torch.zeros(4, 4).bool()),
    nn.Parameter(torch.ones(4)),
)
BYTES = st.sampled_from(["unchanged"] * 4 + [e for e in ENCODINGS if e not in ("UTF-16",)])
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["model", "metadata", "iteration", "layer.weight", "loss.class_counts"]),
        st.sampled_from(["set", "set", "delete", "rename"]),
        st.sampled_from(VALUES),
    ),
    max_size=2,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.loss = SeesawLoss(num_classes=5)


def saved(content, encoding, place):
    file = io.BytesIO()
    torch.save(content, file)
    return ENCODINGS[encoding](file.getvalue(), place)


def change(content, name, kind, value):
    for holder in (content, content.get("model")):
        if isinstance(holder, dict) and name in holder:
            old = holder.pop(name)
            if kind != "delete":
                holder[name if kind == "set" else f"{name}x"] = value if kind == "set" else old


@given(changes=CHANGES, encoding=BYTES, place=PLACE)
def test_a_damaged_checkpoint_is_loaded_exactly_or_refused(
    tmp_path_factory, changes, encoding, place
):
    torch.manual_seed(1)
    content = {"model": Model().state_dict(), "iteration": 3}
    content["metadata"] = {"dataset": "x", "class_names": list("abcde")}
    for step in changes:
        change(content, *step)
    path = tmp_path_factory.getbasetemp() / "fuzz.pth"
    path.write_bytes(saved(content, encoding, place))
    model = Model()
    _, refused = outcome(StrictCheckpointer(model, require_all=True).load, str(path))
    if refused is None:
        state = model.state_dict()
        assert state.keys() == content["model"].keys()
        for name, tensor in state.items():
            assert tensor.isfinite().all(), name
            assert torch.equal(tensor, torch.as_tensor(content["model"][name])), name


def mmdet_state():
    """Return the weights of the parts that decide the kind of an mmdet model, and a few others."""
    state = {f"backbone.layer3.{i}.conv1.weight": torch.zeros(2, 2, 1, 1) for i in range(6)}
    state |= {"backbone.conv1.weight": torch.zeros(2, 3, 7, 7)}
    state |= {f"roi_head.bbox_head.fc_cls.{n}": torch.zeros(7, 4) for n in ("weight", "bias")}
    state["roi_head.bbox_head.loss_cls.cum_samples"] = torch.arange(6.0)
    state["roi_head.mask_head.conv_logits.weight"] = torch.zeros(5, 2, 1, 1)
    return state


MMDET_CHANGES = st.lists(
    st.tuples(
        st.sampled_from([*mmdet_state(), "state_dict", "meta"]),
        st.sampled_from(["set", "set", "delete", "rename"]),
        st.sampled_from(VALUES),
    ),
    max_size=2,
)


def convert(path):
    file = read_mmdet_file(path)
    describe_mmdet(file.state)
    return convert_mmdet(file.state)


@given(changes=MMDET_CHANGES, encoding=BYTES, place=PLACE)
def test_a_damaged_file_of_mmdet_is_converted_or_refused(
    tmp_path_factory, changes, encoding, place
):
    content = {"state_dict": mmdet_state(), "meta": {"config": json.dumps({})}}
    nested = SimpleNamespace(content={**content, "model": content["state_dict"]})
    for name, kind, value in changes:
        change(nested.content, name, kind, value)
    nested.content.pop("model", None)
    path = tmp_path_factory.getbasetemp() / "mmdet.pth"
    path.write_bytes(saved(nested.content, encoding, place))
    weights, _ = outcome(convert, path)
    for name, tensor in (weights or {}).items():
        assert isinstance(tensor, torch.Tensor), name
        assert not name.endswith("class_counts") or (tensor >= 0).all()


@given(place=PLACE, encoding=BYTES, protocol=st.integers(0, 5), number=st.integers(0, 255))
def test_a_damaged_pickle_gives_numbers_or_is_refused(
    tmp_path_factory, place, encoding, protocol, number
):
    content = {"model": {"w": np.arange(6.0).reshape(2, 3), "b": [np.float32(2)]}, "x": ("y", 1)}
    data = bytearray(pickle.dumps(content, protocol))
    data[place % len(data)] = number
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    path.write_bytes(ENCODINGS[encoding](bytes(data), place))
    found, _ = outcome(read_pickle, path)
    assert_plain(found)


def assert_plain(value):
    if isinstance(value, dict | list | tuple):
        for part in [*value.values(), *value] if isinstance(value, dict) else value:
            assert_plain(part)
    elif isinstance(value, np.ndarray | np.generic):
        assert value.dtype.kind in "biuf"
    else:
        assert value is None or isinstance(value, str | bytes | int | float)


NAMES = ("os.getcwd", "torch.nn.Linear", "torch.nn.modules.module.torch.load", "x", "", "a.b", "..")
TAGS = ("!!python/name:", "!!python/object/apply:", "!!python/tuple", "!!binary", "!!set", "!x ")
TOKENS = st.sampled_from(
    (*NAMES, *TAGS, *"&*[]{}:,-?|>%@'\"\n #!", "<<: ", "${", "}", "_target_: ")
)


@given(tokens=st.lists(TOKENS, max_size=12), place=PLACE, encoding=BYTES)
def test_a_damaged_yaml_config_is_read_without_running_anything(
    tmp_path_factory, tokens, place, encoding
):
    text = "model: {_target_: torch.nn.Linear, in_features: 2}\ntrain: {seed: 1}\ntta: {}\n"
    place %= len(text)
    data = (text[:place] + "".join(tokens) + text[place:]).encode()
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(ENCODINGS[encoding](data, place))
    cfg, _ = outcome(load_config, str(path))
    for _, node in _call_nodes(cfg, "") if cfg is not None else ():
        assert issubclass(target_of(node), nn.Module)


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_path_without_a_file_is_one_line(tmp_path, name):
    _, refused = outcome(convert, tmp_path / name)
    assert refused
