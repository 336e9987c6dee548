import json
import logging
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from d2_seesaw.data.annotations import reader
from d2_seesaw.data.annotations.coco import parse_file
from d2_seesaw.data.annotations.reader import read_annotations, read_categories
from d2_seesaw.data.annotations.table import ARRAYS
from tests.data import own_data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(reader, "_LEAST_BYTES_KEPT", 0)
    return tmp_path / "cache" / "d2_seesaw"


@pytest.fixture
def json_file(tmp_path):
    data = own_data.content()
    data["annotations"][3]["iscrowd"] = 1
    data["annotations"].append(own_data.annotation(8, 5, 7, segmentation=[[1, 1, 2, 2]]))
    return own_data.write(tmp_path, data)


@pytest.fixture
def parses(monkeypatch):
    """Record the annotation files that are parsed."""
    files = []

    def counted(json_file):
        files.append(json_file)
        return parse_file(json_file)

    monkeypatch.setattr(reader, "parse_file", counted)
    return files


def records(json_file):
    return read_annotations(json_file).records(str).to_list()


def test_the_second_start_parses_nothing_and_returns_the_same(cache, json_file, parses, caplog):
    first = read_annotations(json_file)
    with caplog.at_level(logging.WARNING):
        second = read_annotations(json_file)
    assert len(parses) == 1
    for name in (*ARRAYS, "images", "categories"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))
        assert type(getattr(second, name)) is type(getattr(first, name))
    assert "1 x a polygon of fewer than three points (invalid_polygon)" in caplog.text
    assert "for example annotation 8: polygon 0 has 2 points. Treatment:" in caplog.text


def test_a_small_file_is_parsed_once_but_for_changes_and_within_a_tick(tmp_path, parses):
    json_file = own_data.write(tmp_path)
    for expected in (1, 2):  # it has just been written
        records(json_file)
        assert len(parses) == expected
    os.utime(json_file, ns=(1, 1))
    first = read_annotations(json_file)
    first.images[0]["id"], first.categories[0]["name"] = 77, "changed by the caller"
    assert read_annotations(str(json_file)).images[0]["id"] == 3
    assert read_categories(json_file)[0]["name"] == own_data.NAMES[0]
    with pytest.raises(ValueError, match="read-only"):
        first.box[0] = 0
    assert len(parses) == 3
    os.utime(json_file, ns=(2, 2))
    read_annotations(json_file)
    assert len(parses) == 4


def test_categories_alone_are_read_from_the_cache(cache, json_file, parses):
    expected = [{"id": i, "name": n} for i, n in zip(own_data.IDS, own_data.NAMES, strict=True)]
    assert read_categories(json_file) == expected
    assert read_categories(json_file) == expected
    assert len(parses) == 1


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_changed_file_is_parsed_again(cache, json_file, parses, change):
    read_annotations(json_file)
    before = os.stat(json_file)
    data = own_data.content()
    data["annotations"][0]["bbox"][0] = 5 if change == "time" else 5.125
    data["annotations"][3]["iscrowd"] = 1
    data["annotations"].append(own_data.annotation(8, 5, 7, segmentation=[[1, 1, 2, 2]]))
    json_file.write_text(json.dumps(data))
    assert (os.stat(json_file).st_size == before.st_size) == (change == "time")
    later = before.st_mtime_ns + 1_000_000_000 * (change == "time")
    os.utime(json_file, ns=(before.st_atime_ns, later))
    assert records(json_file)[0]["annotations"][0]["bbox"][0] >= 5
    assert len(parses) == 2
    assert len(os.listdir(cache)) == 1


def test_files_at_different_paths_are_cached_separately(cache, json_file, tmp_path):
    read_annotations(json_file)
    data = own_data.content()
    data["annotations"] = []
    other = own_data.write(tmp_path, data, "other.json")
    assert sum(len(r["annotations"]) for r in records(other)) == 0
    assert sum(len(r["annotations"]) for r in records(json_file)) == 7


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_cache_file_is_replaced(cache, json_file, parses, damage, caplog):
    expected = records(json_file)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert len(read_categories(json_file)) == 3
    kept.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert records(json_file) == expected
    assert "reading anew" in caplog.text
    assert records(json_file) == expected
    assert len(parses) == 3


def test_flipped_bits_in_a_cache_file_never_change_annotations(cache, json_file):
    expected = records(json_file)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for place in range(0, len(whole), 23):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert records(json_file) == expected


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("bomb",))


def test_nothing_in_a_cache_file_is_executed(cache, json_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = records(json_file)
    (kept,) = cache.iterdir()
    with open(kept, "wb") as file:
        np.save(file, np.array([_Bomb()], dtype=object), allow_pickle=True)
        file.write(reader._END)
    assert records(json_file) == expected
    kept.write_bytes(pickle.dumps(_Bomb()))
    assert records(json_file) == expected
    assert not (tmp_path / "bomb").exists()


def test_caching_can_be_turned_off_and_skips_small_files(cache, json_file, parses, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(reader.CACHE_SWITCH, "0")
        read_annotations(json_file)
    monkeypatch.setattr(reader, "_LEAST_BYTES_KEPT", 1 << 20)
    read_annotations(json_file)
    assert len(parses) == 2
    assert not cache.exists()


def test_a_cache_file_that_cannot_be_written_is_a_warning(json_file, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(reader, "_LEAST_BYTES_KEPT", 0)
    with caplog.at_level(logging.WARNING):
        assert len(records(json_file)) == 4
    assert "could not be kept" in caplog.text


def test_unusable_annotations_are_one_error_with_the_command_that_lists_all(tmp_path):
    data = own_data.content()
    for annotation in data["annotations"]:
        annotation["category_id"] = 8
    json_file = own_data.write(tmp_path, data)
    with pytest.raises(ValueError, match="cannot be used: 7 problems: annotation 1:") as error:
        read_annotations(json_file)
    assert "d2-seesaw check" in str(error.value)
    assert "annotation 5:" in str(error.value)
    assert "annotation 6:" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ("", "is not valid JSON: the file is empty"),
        ("\x1f\x8b\x08", "is not valid JSON: unpack the file, it is a gzip file"),
        ("\xff\xfe{}{", "is not valid JSON: 'utf-16.*' codec can't decode"),
        ("[]", "must hold an object .* got a list"),
        (
            '{"images": [], "annotations": []}',
            "cannot be used: 1 problem: the file has no",
        ),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"a.json {message}"):
        read_annotations(path)


def test_other_values_of_the_switch_leave_caching_on(cache, json_file, monkeypatch):
    monkeypatch.setenv(reader.CACHE_SWITCH, "1")
    read_annotations(json_file)
    assert len(os.listdir(cache)) == 1


def test_a_cache_file_of_another_version_is_parsed_again(cache, json_file, parses, monkeypatch):
    read_annotations(json_file)
    monkeypatch.setattr(reader, "_VERSION", reader._VERSION + 1)
    read_annotations(json_file)
    assert len(parses) == 2


def test_one_relative_path_in_two_folders_is_two_files(cache, tmp_path, monkeypatch):
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        data = own_data.content()
        data["categories"][0]["name"] = f"lamp {folder}"
        json_file = own_data.write(tmp_path / folder, data)
        os.utime(json_file, ns=(1, 1))
        monkeypatch.chdir(tmp_path / folder)
        found.append(read_annotations("train.json").categories[-1]["name"])
    assert found == ["lamp one", "lamp two"]


def test_a_file_that_changes_while_it_is_parsed_is_parsed_again(cache, json_file, monkeypatch):
    def parse_and_change(path):
        content = parse_file(path)
        data = own_data.content()
        data["annotations"] = data["annotations"][:2]
        json_file.write_text(json.dumps(data))
        return content

    with monkeypatch.context() as patch:
        patch.setattr(reader, "parse_file", parse_and_change)
        assert len(read_annotations(json_file).image) == 8
    assert len(read_annotations(json_file).image) == 2


def test_categories_of_a_changed_file_are_read_again(cache, json_file):
    read_categories(json_file)
    data = own_data.content()
    data["categories"][0]["name"] = "another name"
    json_file.write_text(json.dumps(data))
    assert [c["name"] for c in read_categories(json_file)][-1] == "another name"


def test_files_with_errors_are_not_cached(cache, tmp_path):
    data = own_data.content()
    data["annotations"][0]["image_id"] = 4
    json_file = own_data.write(tmp_path, data)
    with pytest.raises(ValueError, match="annotation 1: the image id 4"):
        read_annotations(json_file)
    assert not cache.exists()


def test_the_first_start_logs_no_warning(cache, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read_annotations(own_data.write(tmp_path))
    assert caplog.text == ""


@pytest.mark.parametrize(("wrong", "is_cut"), [(5, False), (6, True)])
def test_the_first_five_unusable_annotations_are_shown(tmp_path, wrong, is_cut):
    data = own_data.content()
    for annotation in data["annotations"][:wrong]:
        annotation["category_id"] = 8
    with pytest.raises(ValueError, match=f"used: {wrong} problems") as error:
        read_annotations(own_data.write(tmp_path, data))
    assert str(error.value).count("; ") == 4 + is_cut
    assert ("; ..." in str(error.value)) == is_cut


def test_files_of_16_mib_and_more_are_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "a.json"
    path.touch()
    for size, is_kept in ((2**24 - 1, False), (2**24, True)):
        os.truncate(path, size)
        assert (reader._kept_copy(path) is not None) == is_kept


@pytest.mark.parametrize(("seconds", "is_said"), [(0.5, False), (2.5, True)])
def test_slow_reading_is_logged(tmp_path, monkeypatch, caplog, seconds, is_said):
    times = iter([0.0, seconds])
    json_file = own_data.write(tmp_path)
    with caplog.at_level(logging.INFO), monkeypatch.context() as patch:
        patch.setattr(reader, "time", SimpleNamespace(monotonic=lambda: next(times)))
        read_annotations(json_file)
    assert (f"took {seconds} s to read" in caplog.text) == is_said


def test_boxes_in_another_format_are_a_warning_on_every_start(cache, tmp_path, caplog):
    data = own_data.content()
    for annotation in data["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x, y, x + width, y + height]
    json_file = own_data.write(tmp_path, data)
    for _ in range(2):
        caplog.clear()
        read_annotations(json_file)
        assert "the boxes look like x1, y1, x2, y2, and are read as x, y, width" in caplog.text
