"""Checkpoints whose content cannot be right are refused, naming the tensor."""

import zipfile

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
        ({"linear.bias": torch.zeros(3).to(torch.float8_e4m3fn)}, "linear.bias: numbers of type"),
        (
            {"linear.bias": torch.zeros(1).expand(10**12)},
            "linear.bias: .* values, but only 4 bytes",
        ),
        (
            {"linear.bias": torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)},
            "linear.bias: numbers of type torch.qint8",
        ),
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


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"iteration": 2.5}, "iteration: expected a whole number, got 2.5"),
        ({"iteration": "3"}, "iteration: expected a whole number, got '3'"),
        ({"trainer": {"iteration": None}}, "trainer.iteration: expected a whole number"),
        (
            {"trainer": {"optimizer": {"state": {3: {"momentum": torch.full((2,), torch.inf)}}}}},
            "trainer.optimizer.state.3.momentum: 2 of 2 values are NaN",
        ),
        ({"ema": {"class_counts": torch.tensor([-1])}}, "ema.class_counts: a negative class count"),
        ({"other": torch.zeros(2).to_sparse()}, "other: not a dense tensor"),
        ({"metadata": [1]}, "metadata must be a dictionary, got a list"),
        ({"metadata": {"class_names": "ab"}}, "class_names without their category_ids"),
        (
            {"metadata": {"class_names": ["a", 2], "category_ids": [1, 2]}},
            "metadata.class_names must be a list of text",
        ),
        (
            {"metadata": {"class_names": ["a"], "category_ids": [1, 2]}},
            "metadata.category_ids has 2 entries for 1 class names",
        ),
        (
            {"metadata": {"class_names": ["a"], "category_ids": [[1]]}},
            "metadata.category_ids must be a list of whole numbers or text",
        ),
        (
            {
                "metadata": {
                    "class_names": ["a"],
                    "category_ids": [1],
                    "class_colors": [[1, 2, 300]],
                }
            },
            "metadata.class_colors must be a list of three numbers from 0 to 255 each",
        ),
    ],
)
def test_values_beside_the_weights_are_checked_too(tmp_path, extras, message):
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path / "m.pth", {"model": state(), **extras})
    assert "\n" not in str(error.value)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value, value]
    return value


def test_nested_values_are_limited_and_shared_ones_are_looked_at_once(tmp_path):
    load(tmp_path / "m.pth", {"model": state(), "x": nested(25)})  # 2 ** 25 with repetitions
    with pytest.raises(ValueError, match="nested more than 30 levels deep"):
        load(tmp_path / "m.pth", {"model": state(), "x": nested(40)})


def test_an_archive_that_needs_more_memory_than_its_size_is_refused(tmp_path):
    torch.save({"model": state()}, path := tmp_path / "m.pth")
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    with pytest.raises(
        ValueError, match=r"its record .* is compressed, which torch\.save never does"
    ):
        StrictCheckpointer(Counting()).load(str(path))
    big = zipfile.ZipInfo("m/data/9")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(big, b"x" * 100)
        archive.infolist()[0].file_size = archive.infolist()[0].compress_size = 10**9
    with pytest.raises(ValueError, match="its records take 1000000000 bytes, more than the"):
        StrictCheckpointer(Counting()).load(str(path))
