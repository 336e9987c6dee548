"""Label maps of semantic segmentation: one way to read them, whoever needs them.

A record is a dict in Detectron2's format with ``sem_seg_file_name``, the path of a PNG with one
class id per pixel. Its optional ``sem_seg_label_ids`` maps the ids in the file to classes; ids that
it leaves out are ignored. Without it the file holds the classes themselves.

Shapes in this module:
    H, W: size of the image
    C: classes
"""

import struct
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 26  # the signature, and the first chunk up to the kind of colours
_GRAY, _RGB, _PALETTE = 0, 2, 3


def label_file(record: Mapping[str, Any]) -> str:
    """The path of a record's label map.

    Raises:
        ValueError: the record has none.
    """
    if "sem_seg_file_name" not in record:
        raise ValueError(
            f"the record of {record.get('file_name', 'an image')} has no sem_seg_file_name, as "
            f"semantic segmentation needs; it has {', '.join(sorted(record)) or 'nothing'}"
        )
    return str(record["sem_seg_file_name"])


def read_labels(
    record: Mapping[str, Any], ignore_label: int = 255, *, num_classes: int | None = None
) -> np.ndarray:
    """Read the classes of a record's pixels.

    The file is a PNG with 8 or 16 bits of grey, a palette (whose indices count, not its colours),
    or three channels of 16 bits with the id in the red one, as SYNTHIA's.

    Args:
        record: see the top of this module; its ``height`` and ``width``, where it has them, must be
            those of the file.
        ignore_label: stands for pixels without a class.
        num_classes: C; ids of it and above are then refused.

    Returns:
        ``(H, W)`` uint8 classes in ``[0, C)``, or ``ignore_label``.

    Raises:
        ValueError: a file that is missing, damaged, of another kind or size, or with ids that are
            not classes. The message names the file.
    """
    path = label_file(record)
    ids = _read_ids(path)
    expected = (record.get("height", ids.shape[0]), record.get("width", ids.shape[1]))
    if ids.shape != expected:
        raise ValueError(
            f"label map {path} is {ids.shape[0]} x {ids.shape[1]}, but its image is "
            f"{expected[0]} x {expected[1]}"
        )
    label_ids = record.get("sem_seg_label_ids")
    if label_ids is not None:
        classes = np.full(np.iinfo(ids.dtype).max + 1, ignore_label, np.uint8)
        for label_id, label in label_ids.items():
            if label_id < len(classes):
                classes[label_id] = label
        ids = classes[ids]
    _check_classes(ids, path, ignore_label, num_classes)
    return ids.astype(np.uint8, copy=False)


def _read_ids(path: str) -> np.ndarray:
    """``(H, W)`` uint8 or uint16 ids as they stand in the file."""
    bits, colors = _png_kind(path)
    if (bits, colors) == (16, _RGB):
        picture = cv2.imread(path, cv2.IMREAD_UNCHANGED)  # Pillow keeps 8 of its 16 bits
        if picture is None:
            raise ValueError(f"label map {path} cannot be read: the file is damaged")
        return picture[:, :, 2]
    # Readers stretch greys of fewer bits over the range of 8: id 1 would become 85 or 255.
    if colors == _PALETTE or (colors == _GRAY and bits >= 8):
        try:
            with Image.open(path) as picture:
                return np.array(picture)  # of a palette, OpenCV gives the colours
        except (OSError, SyntaxError) as error:
            raise ValueError(f"label map {path} cannot be read: {error}") from error
    kinds = {_GRAY: "grey", _RGB: "RGB", 4: "grey with transparency", 6: "RGB with transparency"}
    raise ValueError(
        f"label map {path} is a PNG with {bits} bits of {kinds.get(colors, 'unknown colours')}; "
        "expected class ids in 8 or 16 bits of grey, a palette, or the red one of three channels "
        "of 16 bits"
    )


def _png_kind(path: str) -> tuple[int, int]:
    """Bits per channel, and the number by which PNG names the kind of colours."""
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ValueError(f"label map {path} cannot be read: {error.strerror}") from error
    if len(header) < _HEADER_BYTES or not header.startswith(_PNG_SIGNATURE):
        raise ValueError(f"label map {path} is not a PNG")
    bits, colors = struct.unpack("BB", header[-2:])
    return bits, colors


def _check_classes(ids: np.ndarray, path: str, ignore_label: int, num_classes: int | None) -> None:
    limit = np.iinfo(np.uint8).max + 1 if num_classes is None else num_classes
    wrong = (ids >= limit) & (ids != ignore_label)
    if wrong.any():
        found = np.unique(ids[wrong])
        shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"label map {path} holds {shown}; expected classes in [0, {limit - 1}] or "
            f"{ignore_label} for ignored pixels"
        )
