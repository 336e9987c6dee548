"""Reading of label maps for semantic segmentation.

A record is a dict in Detectron2's format with ``sem_seg_file_name``, the path of a PNG with one
class id per pixel. Its optional ``sem_seg_label_ids`` maps the ids in the file to classes; other
ids are ignored. Without it, the file contains classes.

Shapes in this module:
    H, W: height and width of the image
    C: classes
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from d2_seesaw.data.image_files import check_pixels, pixel_limit

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 26  # the signature, and the first chunk up to the color type
_GRAY, _RGB, _PALETTE = 0, 2, 3


class _Header(NamedTuple):
    """Start of a PNG: size in pixels, bits per channel and PNG color type."""

    width: int
    height: int
    bits: int
    colors: int


def label_file(record: Mapping[str, Any]) -> str:
    """Return the path of a record's label map.

    Raises:
        ValueError: the record has none.
    """
    if "sem_seg_file_name" not in record:
        raise ValueError(
            f"the record of {record.get('file_name', 'an image')} has no sem_seg_file_name, which "
            f"semantic segmentation needs; it has {', '.join(sorted(record)) or 'no fields'}"
        )
    return str(record["sem_seg_file_name"])


def read_labels(
    record: Mapping[str, Any], ignore_label: int = 255, *, num_classes: int | None = None
) -> np.ndarray:
    """Read the classes of a record's pixels.

    The file is a PNG in 8- or 16-bit grayscale, with a palette (whose indices are the ids), or with
    three channels of 16 bits and the id in the red one, as in SYNTHIA.

    Args:
        record: see the top of this module; its ``height`` and ``width``, if it has them, must match
            the file.
        ignore_label: label of pixels without a class.
        num_classes: C; if given, larger ids raise an error.

    Returns:
        ``(H, W)`` uint8 classes in ``[0, C)``, or ``ignore_label``.

    Raises:
        ValueError: the file is missing, damaged, of another format or size, or contains ids that
            are not classes. The message names the file.
    """
    path = label_file(record)
    header = _png_header(path)
    expected = (record.get("height", header.height), record.get("width", header.width))
    if (header.height, header.width) != expected:
        raise ValueError(
            f"label map {path} is {header.height} x {header.width}, but its image is "
            f"{expected[0]} x {expected[1]}"
        )
    option = "PIL.Image.MAX_IMAGE_PIXELS"
    check_pixels(path, (header.width, header.height), pixel_limit(), option)
    ids = _read_ids(path, header.bits, header.colors)
    label_ids = record.get("sem_seg_label_ids")
    if label_ids is not None:
        classes = np.full(np.iinfo(ids.dtype).max + 1, ignore_label, np.uint8)
        for label_id, label in label_ids.items():
            if label_id < len(classes):
                classes[label_id] = label
        ids = classes[ids]
    _check_classes(ids, path, ignore_label, num_classes)
    return ids.astype(np.uint8, copy=False)


def _read_ids(path: str, bits: int, colors: int) -> np.ndarray:
    """Read the ``(H, W)`` uint8 or uint16 ids of a file."""
    if (bits, colors) == (16, _RGB):
        picture = cv2.imread(path, cv2.IMREAD_UNCHANGED)  # Pillow keeps 8 of its 16 bits
        if picture is None:
            raise ValueError(f"label map {path} cannot be read: the file is damaged")
        return picture[:, :, 2]
    # Readers scale grayscale of fewer bits to 8 bits: id 1 would become 85 or 255.
    if colors == _PALETTE or (colors == _GRAY and bits >= 8):
        try:
            with Image.open(path) as picture:
                return np.array(picture)  # OpenCV would return the palette's colors
        except (OSError, SyntaxError) as error:
            raise ValueError(f"label map {path} cannot be read: {error}") from error
    kinds = {_GRAY: "grayscale", _RGB: "RGB", 4: "grayscale with alpha", 6: "RGB with alpha"}
    raise ValueError(
        f"label map {path} is a PNG in {bits}-bit {kinds.get(colors, f'color type {colors}')}; "
        "expected class ids in 8- or 16-bit grayscale, a palette, or the red channel of 16-bit RGB"
    )


def _png_header(path: str) -> _Header:
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ValueError(f"label map {path} cannot be read: {error.strerror}") from error
    if len(header) < _HEADER_BYTES or not header.startswith(_PNG_SIGNATURE):
        raise ValueError(f"label map {path} is not a PNG")
    return _Header(*struct.unpack(">IIBB", header[-10:]))


def _check_classes(ids: np.ndarray, path: str, ignore_label: int, num_classes: int | None) -> None:
    limit = np.iinfo(np.uint8).max + 1 if num_classes is None else num_classes
    wrong = (ids >= limit) & (ids != ignore_label)
    if wrong.any():
        found = np.unique(ids[wrong])
        shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"label map {path} contains {shown}; expected classes in [0, {limit - 1}] or "
            f"{ignore_label} for ignored pixels"
        )
