"""Conversion of masks into encodings, and checks of encodings from files.

Shapes in this module:
    H, W: image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pycocotools import mask as coco_mask

# Compressed counts
_FIRST_CHARACTER = 48  # stands for 0
_MOST_CHARACTERS = 8  # per number: images have fewer than 2**32 pixels
_MOST_PIXELS = 2**31


def encode_bitmap(mask: ArrayLike) -> dict[str, Any]:
    """Encode an ``(H, W)`` mask of the image, with counts in bytes."""
    rle: Any = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle


def encode_segmentation(
    segmentation: Sequence[Sequence[float]] | Mapping[str, Any], image_size: Sequence[int]
) -> dict[str, Any]:
    """Encode the segmentation of an annotation as pycocotools takes it.

    Args:
        segmentation: Polygons ``[x0, y0, x1, y1, ...]``, which are merged, or an encoding, whose
            runs are compressed if they are a list. Compressed encodings are returned as they are.
        image_size: ``(H, W)``.
    """
    if isinstance(segmentation, Mapping) and not isinstance(segmentation["counts"], list):
        return dict(segmentation)
    given: Any = segmentation
    encoded: Any = coco_mask.frPyObjects(given, *image_size)
    merged: Any = coco_mask.merge(encoded) if isinstance(encoded, list) else encoded
    return merged


def compressed_rle(segmentation: Mapping[str, Any]) -> dict[str, Any]:
    """Check a run-length encoding and return it with its counts as compressed text.

    Raises:
        KeyError, TypeError, ValueError: "size" or "counts" are missing or invalid, or the counts
            do not add up to the size. pycocotools would then read beyond the end of its memory.
    """
    size = _checked_size(segmentation["size"])
    counts = segmentation["counts"]
    if not isinstance(counts, list | str):
        raise TypeError(f"counts must be a list or text, got {repr(counts)[:40]}")
    if isinstance(counts, str):
        runs = run_lengths(counts)
    elif all(type(count) is int for count in counts):
        runs = counts
    else:
        wrong = next(count for count in counts if type(count) is not int)
        raise TypeError(f"counts must be whole numbers, got {repr(wrong)[:40]}")
    if (total := sum(runs)) != size[0] * size[1] or min(runs) < 0:
        hint = ": they look like pairs of start and length" if _are_pairs(runs, size) else ""
        negative = ", some of them negative" if min(runs, default=0) < 0 else ""
        raise ValueError(
            f"counts must add up to {size[0]} x {size[1]}, got {total}{negative}{hint}"
        )
    if isinstance(counts, list):
        counts = encode_segmentation({"size": size, "counts": counts}, size)["counts"].decode()
    return {"size": size, "counts": counts}


def _checked_size(size: Any) -> list[int]:
    if not isinstance(size, list | tuple) or [type(side) for side in size] != [int, int]:
        raise TypeError(f"size must be two whole numbers, got {repr(size)[:40]}")
    height, width = size
    if height < 1 or width < 1 or height * width > _MOST_PIXELS:
        raise ValueError(f"size must be that of an image, got {repr(size)[:40]}")
    return [height, width]


def _are_pairs(runs: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether runs are starts, which ascend, and lengths of the foreground."""
    ends = [start + length for start, length in zip(runs[::2], runs[1::2], strict=False)]
    starts = [*runs[::2], size[0] * size[1]]
    ascend = all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    return len(runs) % 2 == 0 and len(runs) > 0 and min(runs) >= 0 and ascend


def run_lengths(counts: str | bytes) -> list[int]:
    """Decompress counts, or raise a ``ValueError``: five bits per character, then differences.

    From the third number on, each difference is relative to the run two positions earlier.
    """
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    bits = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    last = bits < 32  # of a number
    number = np.cumsum(last) - last
    start = np.flatnonzero(np.diff(number, prepend=-1))
    place = np.arange(len(bits)) - start[number]
    if not last[-1:].all() or not ((bits >= 0) & (bits < 64) & (place < _MOST_CHARACTERS)).all():
        raise ValueError(f"counts must be compressed run lengths, got {counts[:40]!r}")
    if not len(bits):
        return []
    runs = np.add.reduceat((bits & 31) << 5 * place, start)
    runs -= np.where(bits[last] & 16, 32 << 5 * place[last], 0)  # the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs.tolist()
