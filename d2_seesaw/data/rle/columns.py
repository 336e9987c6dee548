"""Encoded masks as arrays.

Shapes in this module:
    N: masks
    B: bytes of all masks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from d2_seesaw.data.rle.conversion import encode_segmentation

_MASKS_PER_BLOCK = 10_000  # that `take` copies at once
_COPIED_PER_BYTE = 4  # that `texts` copies to return one


@dataclass(frozen=True)
class MaskColumns:
    """Encoded masks as arrays, with the compressed counts of all masks in one buffer.

    Attributes:
        sizes: ``(N, 2)`` height and width.
        lengths: ``(N,)`` bytes of each mask.
        counts: ``(B,)`` uint8, the compressed counts of all masks.
    """

    sizes: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    @classmethod
    def from_rles(cls, rles: Sequence[Mapping[str, Any]]) -> MaskColumns:
        """Build the columns from encodings whose counts are text, bytes or a list of runs.

        Raises:
            ValueError: an entry is not a run-length encoding.
        """
        counts = [_compressed_counts(rle) for rle in rles]
        return cls(
            np.array([rle["size"] for rle in rles], dtype=np.int32).reshape(-1, 2),
            np.array([len(c) for c in counts], dtype=np.int32),
            np.frombuffer(b"".join(counts), dtype=np.uint8),
        )

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def rles(self, rows: np.ndarray | slice) -> list[dict[str, Any]]:
        """Return the encodings of the given rows as pycocotools takes them, counts in bytes."""
        sizes = self.sizes[rows].tolist()
        return [{"size": s, "counts": t} for s, t in zip(sizes, self.texts(rows), strict=True)]

    def texts(self, rows: np.ndarray | slice) -> list[bytes]:
        """Return the compressed counts of the given rows."""
        starts, ends = self._starts[:-1][rows], self._starts[1:][rows]
        first, last = int(starts.min(initial=len(self.counts))), int(ends.max(initial=0))
        if last - first <= _COPIED_PER_BYTE * int((ends - starts).sum()):
            # Slices of bytes take a third of the time, but need a copy of everything between them.
            bounds = zip((starts - first).tolist(), (ends - first).tolist(), strict=True)
            copied = self.counts[first:last].tobytes()
            return [copied[start:end] for start, end in bounds]
        counts: Any = self.counts.data
        bounds = zip(starts.tolist(), ends.tolist(), strict=True)
        return [counts[start:end].tobytes() for start, end in bounds]

    def bytes_of(self, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all counts as uint8, and first byte and end of each of the given rows in them."""
        return self.counts, self._starts[:-1][rows], self._starts[1:][rows]

    def take(self, rows: np.ndarray) -> MaskColumns:
        """Select rows, in the given order."""
        lengths = self.lengths[rows]
        counts = np.empty(lengths.sum(dtype=np.int64), self.counts.dtype)
        # In blocks, because the index of a byte takes eight times the memory of the byte.
        end = 0
        for start in range(0, len(rows), _MASKS_PER_BLOCK):
            n = lengths[start : start + _MASKS_PER_BLOCK].astype(np.int64)
            shift = self._starts[rows[start : start + _MASKS_PER_BLOCK]] - (np.cumsum(n) - n)
            places = np.arange(n.sum()) + np.repeat(shift, n)
            counts[end : end + len(places)] = self.counts[places]
            end += len(places)
        return MaskColumns(self.sizes[rows], lengths, counts)


def _compressed_counts(rle: Any) -> bytes:
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys():
        text = str(rle)
        raise ValueError(
            "The segmentation of a detection must be a run-length encoding, a dict with 'size' and "
            f"'counts', got {text[:60]}{'...' * (len(text) > 60)}"
        )
    counts = encode_segmentation(rle, rle["size"])["counts"]
    return counts.encode() if isinstance(counts, str) else counts
