import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from d2_seesaw.data import read_labels

LABELS = np.random.default_rng(0).integers(0, 19, (7, 11)).astype(np.uint8)
LABELS[0, :3] = 255


def record(path, **entries):
    return {"file_name": "image.jpg", "sem_seg_file_name": str(path), **entries}


def write_gray_8(path, labels):
    Image.fromarray(labels).save(path)


def write_palette(path, labels):
    picture = Image.fromarray(labels).convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
    picture.save(path)


def write_gray_16(path, labels):
    cv2.imwrite(str(path), labels.astype(np.uint16))


def write_synthia(path, labels):
    """Write the class to red, an instance number to green and 0 to blue."""
    instances = np.full_like(labels, 7, dtype=np.uint16) * 1000
    channels = [np.zeros_like(instances), instances, labels.astype(np.uint16)]
    cv2.imwrite(str(path), np.stack(channels, axis=2))


def write_by_hand(path, rows, width, bits, colors):
    """Write a PNG of the given packed rows, following the specification of the format."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colors, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(48))) if colors == 3 else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + palette + data + chunk(b"IEND", b""))


KINDS = [write_gray_8, write_palette, write_gray_16, write_synthia]


@pytest.mark.parametrize("write", KINDS)
def test_labels_survive_every_kind_of_file(tmp_path, write):
    write(tmp_path / "labels.png", LABELS)
    labels = read_labels(record(tmp_path / "labels.png", height=7, width=11), num_classes=19)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("write", KINDS)
def test_listed_ids_are_mapped_and_all_others_ignored(tmp_path, write):
    write(tmp_path / "labels.png", LABELS)
    mapping = {3: 0, 7: 1, 18: 0, 40: 2}
    labels = read_labels(record(tmp_path / "labels.png", sem_seg_label_ids=mapping), num_classes=3)
    expected = [[mapping.get(int(i), 255) for i in row] for row in LABELS]
    np.testing.assert_array_equal(labels, expected)


def test_ids_above_255_can_be_mapped(tmp_path):
    cv2.imwrite(str(tmp_path / "labels.png"), np.array([[1000, 65535, 3]], np.uint16))
    mapping = {1000: 4, 65535: 5, 70000: 6}
    labels = read_labels(record(tmp_path / "labels.png", sem_seg_label_ids=mapping))
    np.testing.assert_array_equal(labels, [[4, 5, 255]])


def test_four_bit_palette_images_are_read_as_indices(tmp_path):
    write_by_hand(tmp_path / "labels.png", [b"\x01\x2f", b"\x30\x12"], 4, 4, 3)
    labels = read_labels(record(tmp_path / "labels.png"))
    np.testing.assert_array_equal(labels, [[0, 1, 2, 15], [3, 0, 1, 2]])


def test_unmapped_ids_become_the_given_ignore_label(tmp_path):
    write_gray_8(tmp_path / "labels.png", np.array([[0, 1, 2]], np.uint8))
    mapped = record(tmp_path / "labels.png", sem_seg_label_ids={1: 0})
    np.testing.assert_array_equal(read_labels(mapped, 9, num_classes=1), [[9, 0, 9]])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_images_that_readers_would_rescale_are_refused(tmp_path, bits):
    write_by_hand(tmp_path / "labels.png", [b"\x01"], 8 // bits, bits, 0)
    with pytest.raises(ValueError, match=rf"labels\.png is a PNG in {bits}-bit grayscale; exp"):
        read_labels(record(tmp_path / "labels.png"))


def test_color_images_are_refused(tmp_path):
    Image.fromarray(np.stack([LABELS] * 3, axis=2)).save(tmp_path / "labels.png")
    with pytest.raises(ValueError, match=r"labels\.png is a PNG in 8-bit RGB; expected"):
        read_labels(record(tmp_path / "labels.png"))


def test_another_format_is_refused(tmp_path):
    Image.fromarray(LABELS).save(tmp_path / "labels.jpg")
    with pytest.raises(ValueError, match=r"labels\.jpg is not a PNG"):
        read_labels(record(tmp_path / "labels.jpg"))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png cannot be read: No such file"):
        read_labels(record(tmp_path / "gone.png"))


@pytest.mark.parametrize("write", KINDS)
def test_a_damaged_file_is_reported(tmp_path, write):
    path = tmp_path / "labels.png"
    write(path, np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"labels\.png cannot be read: "):
        read_labels(record(path))


@pytest.mark.parametrize("size", [{"height": 11, "width": 7}, {"height": 7, "width": 12}])
def test_labels_of_another_size_than_the_image_are_refused(tmp_path, size):
    write_gray_8(tmp_path / "labels.png", LABELS)
    message = rf"labels\.png is 7 x 11, but its image is {size['height']} x {size['width']}"
    with pytest.raises(ValueError, match=message):
        read_labels(record(tmp_path / "labels.png", **size))


def test_ids_that_are_not_classes_are_listed(tmp_path):
    write_gray_8(tmp_path / "labels.png", np.arange(12, dtype=np.uint8)[None])
    read_labels(record(tmp_path / "labels.png"), num_classes=12)
    message = r"labels\.png contains 3, 4, 5, 6, 7, \.\.\.; expected classes in \[0, 2\] or 255"
    with pytest.raises(ValueError, match=message):
        read_labels(record(tmp_path / "labels.png"), num_classes=3)
    with pytest.raises(ValueError, match=r"contains 11; expected"):
        read_labels(record(tmp_path / "labels.png"), num_classes=11)


def test_large_ids_are_never_truncated_to_eight_bits(tmp_path):
    cv2.imwrite(str(tmp_path / "labels.png"), np.array([[1, 256]], np.uint16))
    with pytest.raises(ValueError, match=r"contains 256; expected classes in \[0, 255\]"):
        read_labels(record(tmp_path / "labels.png"))


def test_a_record_without_label_map_says_what_it_has():
    with pytest.raises(ValueError, match=r"a\.jpg has no sem_seg_file_name, .* file_name, height"):
        read_labels({"file_name": "a.jpg", "height": 3})
