import hashlib
import json
import logging

import pytest

from d2_seesaw.data.annotations import reader
from d2_seesaw.data.annotations.reader import content_hash, file_image_counts
from tests.data import own_data

COUNTS = [
    {"id": 7, "name": "kerb", "image_count": 3},
    {"id": 40, "name": "drain", "image_count": 2},
    {"id": 1000, "name": "hydrant", "image_count": 1},
]


@pytest.fixture
def json_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own_data.write(tmp_path)


@pytest.fixture
def reads(monkeypatch):
    files = []
    read = reader.read_annotations

    def recorded(json_file):
        files.append(json_file)
        return read(json_file)

    monkeypatch.setattr(reader, "read_annotations", recorded)
    return files


def test_images_are_counted_not_objects(json_file):
    assert file_image_counts(json_file) == COUNTS


def test_a_copy_of_the_file_shares_its_counts_and_a_change_does_not(json_file, reads):
    file_image_counts(json_file)
    copy = json_file.with_name("copy.json")
    copy.write_bytes(json_file.read_bytes())
    assert file_image_counts(copy) == COUNTS
    assert len(reads) == 1
    data = own_data.content()
    del data["annotations"][-1]
    copy.write_text(json.dumps(data))
    assert [c["image_count"] for c in file_image_counts(copy)] == [3, 2, 0]
    assert len(reads) == 2


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"version": 1}', b"\xff"])
def test_damaged_cached_counts_are_replaced(json_file, tmp_path, damage, caplog):
    file_image_counts(json_file)
    (kept,) = (tmp_path / "cache" / "d2_seesaw").iterdir()
    kept.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert file_image_counts(json_file) == COUNTS
    assert "counting again" in caplog.text
    assert json.loads(kept.read_bytes())["counts"] == COUNTS


def test_cached_counts_of_other_content_are_not_used(json_file, tmp_path):
    file_image_counts(json_file)
    (kept,) = (tmp_path / "cache" / "d2_seesaw").iterdir()
    other = {"version": 1, "content": "0" * 64, "counts": [dict(COUNTS[0], image_count=9)]}
    kept.write_text(json.dumps(other))
    assert file_image_counts(json_file) == COUNTS


@pytest.mark.parametrize("change", ["version", "keys"])
def test_cached_counts_in_another_format_are_recomputed(json_file, tmp_path, change):
    file_image_counts(json_file)
    (kept,) = (tmp_path / "cache" / "d2_seesaw").iterdir()
    content = json.loads(kept.read_bytes())
    for count in content["counts"]:
        count["image_count"] = 9
        if change == "keys":
            del count["name"]
    content["version"] += change == "version"
    kept.write_text(json.dumps(content))
    assert file_image_counts(json_file) == COUNTS


def test_counts_are_returned_even_if_they_cannot_be_cached(json_file, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(json_file))
    with caplog.at_level(logging.WARNING):
        assert file_image_counts(json_file) == COUNTS
    assert "could not be kept" in caplog.text


def test_the_hash_covers_the_whole_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * ((1 << 20) + 5))
    assert content_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"y")
    assert content_hash(path) == hashlib.sha256(b"y").hexdigest()


def test_a_file_that_has_not_changed_is_hashed_once(json_file, monkeypatch):
    expected = content_hash(json_file)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", None)
        assert content_hash(json_file) == expected
