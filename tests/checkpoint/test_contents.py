"""Checkpoints whose content cannot be right are refused, naming the tensor."""

import pytest
import torch
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.contents import check_checksums


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.register_buffer("class_counts", torch.zeros(4, dtype=torch.int64))


def load(path, content):
    torch.save(content, path)
    return StrictCheckpointer(Counting(), require_all=True).load(str(path))


def state(**changes):
    return {**Counting().state_dict(), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear.weight": torch.full((3, 2), torch.nan)}, "linear.weight: 6 of 6 values are NaN"),
        ({"linear.bias": torch.tensor([1.0, torch.inf, 2.0])}, "linear.bias: 1 of 3 values"),
        ({"class_counts": torch.tensor([0.5, 1, 2, 3])}, "class_counts: class counts that are not"),
        ({"class_counts": torch.tensor([0, -7, 2, 3])}, "class_counts: a negative class count, -7"),
        ({"class_counts": torch.ones(4, dtype=torch.complex64)}, "class_counts: complex"),
        ({"linear.bias": [1.0, 2.0, 3.0]}, "linear.bias: a list instead of a tensor"),
        ({7: torch.zeros(1)}, "7: its name is not text"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_with_its_name(tmp_path, changes, message):
    content = {"model": {**state(), **changes}}
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path / "m.pth", content)
    assert str(error.value).startswith(f"checkpoint {tmp_path}/m.pth cannot be read: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [None, [], {}, {"model": None}, {"model": []}, {"model": {}}, 5, "text", b"bytes"]
)
def test_a_file_without_weights_is_one_line(tmp_path, content):
    with pytest.raises(ValueError, match=r"m\.pth cannot be read: "):
        load(tmp_path / "m.pth", content)


def test_whole_counts_in_floating_point_are_loaded(tmp_path):
    path = tmp_path / "m.pth"
    torch.save({"model": state(class_counts=torch.tensor([0.0, 1, 2, 2**20]))}, path)
    model = Counting()
    StrictCheckpointer(model, require_all=True).load(str(path))
    assert model.class_counts.tolist() == [0, 1, 2, 2**20]


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 500, -1])
def test_a_truncated_file_is_one_line(tmp_path, cut):
    path = tmp_path / "m.pth"
    torch.save({"model": state()}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"m\.pth cannot be read: "):
        StrictCheckpointer(Counting()).load(str(path))


def test_a_truncated_archive_and_a_text_file_are_named_without_advice_of_pytorch(tmp_path):
    torch.save({"model": state()}, path := tmp_path / "m.pth")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="it is truncated: the end of the file is missing"):
        StrictCheckpointer(Counting()).load(str(path))
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"not a file of torch\.save") as error:
        StrictCheckpointer(Counting()).load(str(path))
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_changed_byte_of_the_weights_is_reported(tmp_path, has_checksums):
    weights = {"a": torch.ones(1000)}
    torch.serialization.set_crc32_options(has_checksums)
    try:
        torch.save({"model": weights}, tmp_path / "model.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    check_checksums(tmp_path / "model.pth")
    data = (tmp_path / "model.pth").read_bytes()
    place = data.index(weights["a"].numpy().tobytes()) + 400
    (tmp_path / "model.pth").write_bytes(data[:place] + b"\x01" + data[place + 1 :])
    if has_checksums:
        with pytest.raises(ValueError, match=r"it is damaged: Bad CRC-32 for file .*/data/0"):
            check_checksums(tmp_path / "model.pth")
    else:
        check_checksums(tmp_path / "model.pth")
