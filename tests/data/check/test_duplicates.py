import pytest

from d2_seesaw.data.check.duplicates import check_duplicates
from d2_seesaw.data.check.images import ImageFile


@pytest.fixture
def files(tmp_path):
    def made(split, contents):
        folder = tmp_path / split
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return [ImageFile(str(folder / n), n, i, 1, 1) for i, n in enumerate(contents)]

    return made


def found(*args):
    return [(i.image_id, i.message) for i in check_duplicates(*args, progress=False)]


def test_each_image_of_the_other_split_is_named_with_its_pair(files):
    here = files("val", {"a.png": b"one", "b.png": b"two", "c.png": b"longer"})
    train = files("train", {"x.png": b"two", "y.png": b"three", "z.png": b"longer"})
    assert found(here, {"train.json": train}) == [
        (1, "the content is that of image 0 of train.json, x.png"),
        (2, "the content is that of image 2 of train.json, z.png"),
    ]


def test_an_image_twice_in_a_split_is_named_once(files):
    here = files("val", {"a.png": b"one", "b.png": b"one", "c.png": b"two"})
    assert found(here, {}) == [(1, "the content is that of image 0, a.png")]


def test_the_same_file_in_both_splits_is_named_and_missing_files_are_not(files):
    here = files("val", {"a.png": b"one"})
    gone = ImageFile("nowhere/b.png", "b.png", 7, 1, 1)
    assert found([*here, gone], {"train.json": [*here, gone]}) == [
        (0, "the content is that of image 0 of train.json, a.png")
    ]


def test_only_files_of_equal_size_are_read(files, monkeypatch):
    from d2_seesaw.data.check import duplicates

    read = []
    monkeypatch.setattr(duplicates, "content_hash", lambda path: read.append(path) or path)
    here = files("val", {"a.png": b"one", "b.png": b"other"})
    assert found(here, {"t": files("train", {"x.png": b"two", "y.png": b"longest"})}) == []
    assert sorted(path[-5:] for path in read) == ["a.png", "x.png"]
