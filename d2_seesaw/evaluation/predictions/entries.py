"""Entries of a results file as columns: the type of every value is checked.

Checks use sets of types, which are built without a Python loop over the values. Only a column that
breaks a rule is searched for its first wrong value.

Shapes in this module:
    N: entries
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from d2_seesaw.data.rle import MaskColumns, compressed_rle, encode_segmentation

ImageSize = Callable[[Any], Sequence[int]]
"""Function from an image id to height and width, for masks that are polygons."""

NO_MASK = {"size": [0, 0], "counts": ""}
"""Encoding of a detection without a mask in ``MaskColumns``."""

_SHOWN = 60
_LISTS = frozenset((list, tuple))
_LEAST_POLYGON = 6
_REACH = 10  # sides of the image: farther points make pycocotools allocate gigabytes


class Entries:
    """Consecutive entries of a results file.

    Args:
        results: Entries in the COCO results format.
        first: Position of the first one in the file, for messages.
    """

    def __init__(self, results: Sequence[Mapping[str, Any]], first: int = 0) -> None:
        self._results = results
        self._first = first

    def values(self, key: str) -> list[Any]:
        """Return a field of all entries.

        Raises:
            ValueError: some of them lack it.
        """
        try:
            return [r[key] for r in self._results]
        except KeyError:
            missing = sum(key not in r for r in self._results)
            raise ValueError(
                f"{missing} of {len(self._results)} detections have no {key!r}"
            ) from None

    def ids(self, key: str) -> np.ndarray:
        """Return ``(N,)`` ids: whole numbers, or text."""
        values: list[Any] = self.values(key)
        types = set(map(type, values))
        if not types <= {int} and not types <= {str}:
            values = [self._id(key, value, row) for row, value in enumerate(values)]
            if len(set(map(type, values))) > 1:
                number, text = (
                    next(row for row, value in enumerate(values) if isinstance(value, kind))
                    for kind in (int, str)
                )
                raise ValueError(
                    f"the {key} is a number in {self._name(number)} and text in {self._name(text)}"
                )
        column = np.array(values)
        wrong: list[int] = []
        if column.dtype.kind == "U":
            wrong = [row for row, v in enumerate(values) if v.endswith("\0")]  # NumPy drops it
        elif column.dtype.kind != "i":
            wrong = [row for row, v in enumerate(values) if not -(2**63) <= v < 2**63]
        if wrong:
            self._refuse(wrong[0], key, values[wrong[0]], "a whole number of 64 bits or text")
        return column

    def _id(self, key: str, value: Any, row: int) -> Any:
        """Return an id as Python's number or text."""
        if isinstance(value, str):
            return str(value)
        is_number = isinstance(value, (int, float, np.integer, np.floating))
        if not is_number or isinstance(value, bool) or value != value // 1:
            self._refuse(row, key, value, "a whole number or text")
        return int(value)

    def numbers(self, key: str, default: Sequence[Any] | None = None) -> np.ndarray:
        """Return ``(N,)`` numbers.

        Args:
            key: The field.
            default: N values for entries that lack the field, if they may.
        """
        if default is None:
            values = self.values(key)
        else:
            pairs = zip(self._results, default, strict=True)
            values = [r.get(key, other) for r, other in pairs]
        if not _are_numbers(values):
            row = next(i for i, v in enumerate(values) if not _are_numbers([v]))
            self._refuse(row, key, values[row], "a number")
        return self._column(key, values)

    def lists(self, key: str, length: int | None = None) -> np.ndarray:
        """Return ``(N, length)`` numbers; by default with the length of the first entry."""
        values = self.values(key)
        if length is None:
            length = len(values[0]) if isinstance(values[0], Sequence) else 0

        def fits(value: Any) -> bool:
            is_list = isinstance(value, (list, tuple, np.ndarray))
            return is_list and len(value) == length and _are_numbers(list(value))

        # One call for all entries; ``fits`` for each of them takes ten times as long.
        if set(map(type, values)) <= _LISTS and set(map(len, values)) == {length}:
            flat = list(chain.from_iterable(values))
            if _are_numbers(flat):
                return self._column(key, flat, length).reshape(len(values), length)
        row = next((i for i, value in enumerate(values) if not fits(value)), None)
        if row is not None:
            count = {4: "four", 0: "a list of"}.get(length, str(length))
            self._refuse(row, key, values[row], f"{count} numbers")
        return np.array(values).reshape(len(values), length)

    def _column(self, key: str, values: Sequence[Any], per_row: int = 1) -> np.ndarray:
        column = np.array(values)
        if column.dtype.kind not in "iuf":  # whole numbers beyond 64 bits
            place = next((i for i, value in enumerate(values) if abs(value) >= 2**63), 0)
            self._refuse(place // per_row, key, values[place], "numbers of 64 bits")
        return column

    def masks(self, image_size: ImageSize | None = None) -> MaskColumns:
        """Return the masks. An entry with null or ``[]`` gets ``NO_MASK``.

        Args:
            image_size: Height and width of an image, for polygons.

        Raises:
            ValueError: a segmentation is neither a valid encoding nor a list of polygons.
        """
        values = self.values("segmentation")
        if not _are_compressed(values):
            values = [self._encoding(row, value, image_size) for row, value in enumerate(values)]
        try:
            counts = [value["counts"].encode("ascii") for value in values]
            sizes = np.array(list(chain.from_iterable(v["size"] for v in values)), np.int32)
            lengths = np.array(list(map(len, counts)), np.int32)
        except (ValueError, OverflowError) as error:  # text beyond ASCII, huge sizes
            for row, value in enumerate(values):
                self._encoding(row, value, image_size)  # names the entry
            raise ValueError(f"the segmentation of a detection is invalid: {error}") from error
        masks = MaskColumns(
            sizes.reshape(-1, 2), lengths, np.frombuffer(b"".join(counts), np.uint8)
        )
        row = first_invalid_mask(masks)
        if row is not None:
            self._encoding(row, values[row], image_size)  # says what is wrong
            self._refuse(row, "segmentation", values[row], "a valid run-length encoding")
        return masks

    def _encoding(
        self, row: int, segmentation: Any, image_size: ImageSize | None
    ) -> Mapping[str, Any]:
        if segmentation is None or segmentation == []:
            return NO_MASK
        try:
            if isinstance(segmentation, Mapping):
                return _checked_rle(segmentation)
            if isinstance(segmentation, (list, tuple)):
                if image_size is None:
                    raise ValueError("it has polygons, whose image size is not known here")
                size = image_size(self._results[row]["image_id"])
                return _rasterized(segmentation, size)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{self._name(row)} has an invalid segmentation: {_elided(reason, 200)}"
            ) from error
        return self._refuse(row, "segmentation", segmentation, "a run-length encoding or polygons")

    def _name(self, row: int) -> str:
        image = self._results[row].get("image_id")
        return f"detection {self._first + row} (image {_elided(repr(image))})"

    def _refuse(self, row: int, key: str, value: Any, expected: str) -> NoReturn:
        raise ValueError(
            f"{self._name(row)} has the {key} {_elided(repr(value))}, expected {expected}"
        )


def _elided(text: str, length: int = _SHOWN) -> str:
    return text[:length] + "..." * (len(text) > length)


def _are_numbers(values: Sequence[Any]) -> bool:
    types = set(map(type, values))
    return types <= {int, float} or all(
        issubclass(t, (int, float, np.integer, np.floating)) and t is not bool for t in types
    )


def _are_compressed(values: Sequence[Any]) -> bool:
    """Return whether all values are encodings with a size of two whole numbers and text."""
    if set(map(type, values)) != {dict} or not all("size" in v and "counts" in v for v in values):
        return False
    sizes = [v["size"] for v in values]
    return (
        {type(v["counts"]) for v in values} == {str}
        and set(map(type, sizes)) <= _LISTS
        and set(map(len, sizes)) == {2}
        and set(map(type, chain.from_iterable(sizes))) == {int}
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _checked_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, (list, tuple, np.ndarray)) or len(size) != 2:
        raise ValueError(f"size must be height and width, got {size!r}")
    if not all(_is_whole(side) and side > 0 for side in size):
        raise ValueError(f"size must be two positive whole numbers, got {size!r}")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    if isinstance(counts, (list, tuple)):
        counts = list(counts)
        wrong = [c for c in counts if not _is_whole(c)]
        if wrong:
            raise ValueError(f"counts must be whole numbers, got {wrong[0]!r}")
    return compressed_rle({"size": [int(s) for s in size], "counts": counts})


def _rasterized(polygons: Sequence[Any], size: Sequence[int]) -> dict[str, Any]:
    """Encode polygons as ``pycocotools.coco.COCO.annToRLE`` does."""
    limit = _REACH * max(size)
    for polygon in polygons:
        if not isinstance(polygon, (list, tuple)) or not _are_numbers(polygon):
            raise ValueError(
                "polygons must be a list of lists of numbers, or the mask a run-length encoding, "
                f"got {_elided(repr(polygon))} in the list"
            )
        if len(polygon) < _LEAST_POLYGON or len(polygon) % 2:
            raise ValueError(
                f"a polygon must have three points or more, got {_elided(str(polygon))}"
            )
        far = [c for c in polygon if not math.isfinite(c) or abs(c) > limit]
        if far:
            raise ValueError(
                f"a polygon has the coordinate {far[0]!r}, the image is {text_of(size)}"
            )
    rle = encode_segmentation([list(map(float, p)) for p in polygons], size)
    return {**rle, "counts": rle["counts"].decode()}


def text_of(size: Sequence[int]) -> str:
    """Return height and width as text, in the order of run-length encodings."""
    return f"{size[0]} x {size[1]}"


# Compressed counts: five bits per character and a bit that says whether more follow. From the
# fourth number on, each is the difference to the number before the last one.
_ZERO = 48  # the character of 0
_MOST_CHARACTERS = 8  # per number
_VALUES = np.array([(i & 31) - 2 * (i & 16) for i in range(64)], np.int64)  # with the sign
_MASKS_PER_BLOCK = 2_000  # so that the numbers of a block stay in the processor's cache


def first_invalid_mask(masks: MaskColumns) -> int | None:
    """Return the row of the first mask whose runs are invalid or do not add up to its size.

    pycocotools reads beyond the end of its memory, or never ends, if they do not. An encoding
    without counts is valid if it has no size.
    """
    ends = np.cumsum(masks.lengths, dtype=np.int64)
    for start in range(0, len(masks.lengths), _MASKS_PER_BLOCK):
        rows = slice(start, start + _MASKS_PER_BLOCK)
        lengths = masks.lengths[rows].astype(np.int64)
        begin = ends[start] - lengths[0]
        pixels = masks.sizes[rows].astype(np.int64).prod(axis=1)
        counts = masks.counts[begin : begin + lengths.sum()]
        valid = _add_up(counts, lengths, pixels) & (masks.sizes[rows] >= 0).all(axis=1)
        if not valid.all():
            return start + int(np.flatnonzero(~valid)[0])
    return None


def _add_up(counts: np.ndarray, lengths: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return for each mask of a block whether its counts are valid and add up to ``pixels``."""
    valid = np.where(lengths > 0, pixels > 0, pixels == 0)
    rows = np.flatnonzero(lengths)
    if not len(rows):
        return valid
    last_byte = np.cumsum(lengths[rows]) - 1
    bits = counts - np.uint8(_ZERO)  # wraps around below the character of 0
    is_last = bits < 32  # of its number
    if bits.max() > 63 or not is_last[last_byte].all():
        return _one_by_one(counts, lengths, pixels)
    last = np.flatnonzero(is_last)
    numbers = _VALUES[bits[last]]
    earlier = np.flatnonzero(~is_last)
    if len(earlier):
        of_number = earlier - np.arange(len(earlier))  # the numbers that end before it
        place = earlier - np.concatenate([[0], last + 1])[of_number]
        if place.max() >= _MOST_CHARACTERS - 1:
            return _one_by_one(counts, lengths, pixels)
        numbers <<= 5 * np.bincount(of_number, minlength=len(last))
        low = (bits[earlier] & 31).astype(np.int64) << 5 * place
        numbers += np.bincount(of_number, low, minlength=len(last)).astype(np.int64)
    per_mask = np.diff(np.searchsorted(last, last_byte, side="right"), prepend=0)
    lowest, total = _runs_of(numbers, per_mask)
    valid[rows] &= (lowest >= 0) & (total == pixels[rows])
    return valid


def _runs_of(numbers: np.ndarray, per_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shortest run and the sum of the runs of each mask.

    Runs at even and at odd positions are two chains of differences. The first number of a mask is
    in neither. Masks of an odd length are padded, so that all begin at an even position.
    """
    is_odd = per_mask % 2
    pairs = (per_mask + is_odd) // 2
    ends = np.cumsum(pairs)
    starts = ends - pairs
    padded = np.zeros(2 * ends[-1], np.int64)
    filled = np.ones(len(padded), dtype=bool)
    filled[2 * ends[is_odd > 0] - 1] = False
    padded[filled] = numbers
    lowest = padded[2 * starts]
    total = lowest.copy()
    padded[2 * starts] = 0
    for column in (0, 1):
        sums = np.cumsum(padded[column::2])
        base = np.where(starts > 0, sums[starts - 1], 0)
        lowest = np.minimum(lowest, np.minimum.reduceat(sums, starts) - base)
        total += np.add.reduceat(sums, starts) - base * pairs
    return lowest, total - is_odd * (sums[ends - 1] - base)  # without the padding


def _one_by_one(counts: np.ndarray, lengths: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the same as ``_add_up`` for a block with undecodable characters."""
    if len(lengths) == 1:
        return np.zeros(1, dtype=bool)
    middle = len(lengths) // 2
    split = int(lengths[:middle].sum())
    return np.concatenate(
        [
            _add_up(counts[:split], lengths[:middle], pixels[:middle]),
            _add_up(counts[split:], lengths[middle:], pixels[middle:]),
        ]
    )
