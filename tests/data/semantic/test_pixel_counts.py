import logging
import os

import cv2
import numpy as np
import pytest

from d2_seesaw.data import class_pixel_counts
from d2_seesaw.data.semantic import pixel_counts

C = 5


def write(path, labels):
    """Write an uncompressed image, so that maps of one shape are files of one size."""
    cv2.imwrite(str(path), labels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    return path


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, C, (6 + i, 9)).astype(np.uint8) for i in range(12)]
    labels[0][:2] = 255
    labels[1][:] = 255
    labels[2][:] = 3
    return labels


@pytest.fixture
def dataset(tmp_path, maps):
    folder = tmp_path / "labels"
    folder.mkdir()
    return [
        {"sem_seg_file_name": str(write(folder / f"{i}.png", labels))}
        for i, labels in enumerate(maps)
    ]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """Record the names of the label maps that are read."""
    names = []
    read_labels = pixel_counts.read_labels

    def recorded(record, *args, **options):
        names.append(record["sem_seg_file_name"])
        return read_labels(record, *args, **options)

    monkeypatch.setattr(pixel_counts, "read_labels", recorded)
    return names


def expected(maps, num_classes=C):
    return np.array([[np.sum(labels == c) for c in range(num_classes)] for labels in maps])


def touch(path):
    """Change the modification time by more than any clock resolution."""
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def test_pixels_of_every_class_in_every_map_are_counted(dataset, maps, cache):
    counts = class_pixel_counts(dataset, C, cache_folder=cache)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected(maps))
    assert counts[1].sum() == 0


def test_the_second_time_nothing_is_read(dataset, maps, cache, reads):
    class_pixel_counts(dataset, C, cache_folder=cache)
    assert len(reads) == len(maps)
    again = class_pixel_counts(dataset, C, cache_folder=cache)
    assert len(reads) == len(maps)
    np.testing.assert_array_equal(again, expected(maps))


def test_a_changed_map_is_counted_again(dataset, maps, cache):
    class_pixel_counts(dataset, C, cache_folder=cache)
    maps[4] = np.roll(maps[4], 1) // 2
    touch(write(dataset[4]["sem_seg_file_name"], maps[4]))
    counts = class_pixel_counts(dataset, C, cache_folder=cache)
    np.testing.assert_array_equal(counts, expected(maps))
    assert len(list(cache.iterdir())) == 1


def test_a_changed_map_of_equal_size_is_noticed_by_its_modification_time(dataset, maps, cache):
    class_pixel_counts(dataset, C, cache_folder=cache)
    path, size = dataset[2]["sem_seg_file_name"], os.stat(dataset[2]["sem_seg_file_name"]).st_size
    maps[2][:] = 4
    touch(write(path, maps[2]))
    assert os.stat(path).st_size == size
    counts = class_pixel_counts(dataset, C, cache_folder=cache)
    np.testing.assert_array_equal(counts, expected(maps))


def test_a_changed_map_of_equal_modification_time_is_noticed_by_its_size(dataset, maps, cache):
    class_pixel_counts(dataset, C, cache_folder=cache)
    path, status = dataset[4]["sem_seg_file_name"], os.stat(dataset[4]["sem_seg_file_name"])
    maps[4] = np.zeros((50, 50), np.uint8)
    write(path, maps[4])
    assert os.stat(path).st_size != status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    counts = class_pixel_counts(dataset, C, cache_folder=cache)
    np.testing.assert_array_equal(counts, expected(maps))


def test_other_images_ids_and_classes_have_counts_of_their_own(dataset, maps, cache):
    class_pixel_counts(dataset, C, cache_folder=cache)
    fewer = class_pixel_counts(dataset[:-1], C, cache_folder=cache)
    np.testing.assert_array_equal(fewer, expected(maps[:-1]))
    wider = class_pixel_counts(dataset, 7, cache_folder=cache)
    np.testing.assert_array_equal(wider, expected(maps, 7))
    for ids in ({2: 0, 4: 1}, {2: 1, 4: 0}):
        mapped = [record | {"sem_seg_label_ids": ids} for record in dataset]
        counts = class_pixel_counts(mapped, 2, cache_folder=cache)
        by_class = sorted(ids, key=ids.get)
        np.testing.assert_array_equal(counts, expected(maps)[:, by_class])


def test_other_files_of_equal_size_and_time_have_counts_of_their_own(dataset, maps, cache):
    first, second = [dataset[2]], [dataset[3]]
    write(second[0]["sem_seg_file_name"], np.zeros_like(maps[2]))
    for record in (*first, *second):
        os.utime(record["sem_seg_file_name"], ns=(0, 0))
    assert class_pixel_counts(first, C, cache_folder=cache)[0, 3] == maps[2].size
    assert class_pixel_counts(second, C, cache_folder=cache)[0, 0] == maps[2].size


def test_the_order_of_label_ids_does_not_matter(dataset, cache, reads):
    for ids in ({2: 0, 4: 1}, {4: 1, 2: 0}):
        mapped = [record | {"sem_seg_label_ids": ids} for record in dataset]
        class_pixel_counts(mapped, 2, cache_folder=cache)
    assert len(reads) == len(dataset)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_file_of_counts_is_replaced(dataset, maps, cache, damage, caplog):
    class_pixel_counts(dataset, C, cache_folder=cache)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        counts = class_pixel_counts(dataset, C, cache_folder=cache)
    np.testing.assert_array_equal(counts, expected(maps))
    assert "counting again" in caplog.text
    with np.load(kept) as repaired:
        np.testing.assert_array_equal(repaired["counts"], expected(maps))


def test_flipped_bits_in_a_file_of_counts_never_give_other_counts(dataset, maps, cache):
    class_pixel_counts(dataset, C, cache_folder=cache)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for place in range(0, len(whole), 7):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        counts = class_pixel_counts(dataset, C, cache_folder=cache)
        np.testing.assert_array_equal(counts, expected(maps))


def test_counts_are_returned_even_if_they_cannot_be_cached(dataset, maps, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        counts = class_pixel_counts(dataset, C, cache_folder=tmp_path / "file")
    np.testing.assert_array_equal(counts, expected(maps))
    assert "could not be cached" in caplog.text


def test_an_interrupted_write_leaves_the_earlier_counts(dataset, maps, cache, monkeypatch):
    class_pixel_counts(dataset, C, cache_folder=cache)
    (kept,) = cache.iterdir()
    before = kept.read_bytes()

    def full_disk(file, **_):
        file.write(b"half")
        raise OSError("no space left on device")

    touch(dataset[0]["sem_seg_file_name"])
    with monkeypatch.context() as patch:
        patch.setattr(pixel_counts.np, "savez_compressed", full_disk)
        counts = class_pixel_counts(dataset, C, cache_folder=cache)
    np.testing.assert_array_equal(counts, expected(maps))
    assert list(cache.iterdir()) == [kept]
    assert kept.read_bytes() == before


def test_the_default_folder_follows_the_platform_convention(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    class_pixel_counts(dataset, C)
    assert len(list((tmp_path / "xdg" / "d2_seesaw").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert pixel_counts.default_cache_folder() == tmp_path / "home" / ".cache" / "d2_seesaw"


def test_maps_with_other_classes_are_reported(dataset, cache):
    with pytest.raises(ValueError, match=r"\.png contains 4; expected classes in \[0, 3\]"):
        class_pixel_counts(dataset, 4, cache_folder=cache)
    assert not cache.exists()


def test_missing_maps_are_reported(dataset, cache):
    os.unlink(dataset[5]["sem_seg_file_name"])
    with pytest.raises(ValueError, match=r"5\.png cannot be read: No such file"):
        class_pixel_counts(dataset, C, cache_folder=cache)


@pytest.mark.parametrize("num_classes", [0, 256])
def test_a_number_of_classes_out_of_range_is_reported(dataset, num_classes):
    with pytest.raises(ValueError, match=rf"must be in \[1, 255\] .* got {num_classes}"):
        class_pixel_counts(dataset, num_classes)


def test_other_ranks_wait_for_the_main_rank_and_read_its_cache(
    dataset, maps, cache, reads, monkeypatch
):
    waited = []

    def main_rank_counts():
        assert not reads
        waited.append(True)
        with monkeypatch.context() as patch:
            patch.setattr(pixel_counts.comm, "is_main_process", lambda: True)
            patch.setattr(pixel_counts.comm, "synchronize", lambda: None)
            class_pixel_counts(dataset, C, cache_folder=cache)

    monkeypatch.setattr(pixel_counts.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(pixel_counts.comm, "synchronize", main_rank_counts)
    waiting = class_pixel_counts(dataset, C, cache_folder=cache)
    np.testing.assert_array_equal(waiting, expected(maps))
    assert waited == [True]
    assert len(reads) == len(dataset)


def test_ranks_without_a_common_folder_count_on_their_own(dataset, maps, cache, reads, monkeypatch):
    monkeypatch.setattr(pixel_counts.comm, "is_main_process", lambda: False)
    np.testing.assert_array_equal(
        class_pixel_counts(dataset, C, cache_folder=cache), expected(maps)
    )
    assert len(reads) == len(dataset)
