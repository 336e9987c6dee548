"""Greedy matching of detections with objects.

The detections of a pair, an image and a category, are matched in order of their scores, each with
the best unmatched object. Pairs are independent, so the first detections of all pairs are matched
together, then the second ones, and so on. IoU thresholds and area ranges are independent, too: each
has a bit in the integers that say for which of them an object is free and a detection is matched.

Shapes in this module:
    D: detections with an edge
    G: objects
    E: edges: a detection and an object of its pair with an IoU of at least 0.5
    T: IoU thresholds
    A: area ranges, at most 6
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2_seesaw.evaluation.lvis.overlaps import Edges
from d2_seesaw.evaluation.lvis.rules import IOU_THRESHOLDS
from d2_seesaw.evaluation.predictions.ordering import rank_in_runs, stable_order, starts_of_runs

_T = len(IOU_THRESHOLDS)


def bit_of(t: int, a: int, area_ranges: int) -> np.uint64:
    """Return the bit of an IoU threshold and an area range."""
    return np.uint64(1 << (t * area_ranges + a))


@dataclass(frozen=True)
class Matches:
    """Matches of the detections that have an edge. Other detections match nothing.

    Attributes:
        detections: ``(D,)`` indices of the scored detections, ascending.
        found_bits: ``(D,)`` uint64 with a bit (``bit_of``) for each threshold and area range for
            which a detection matches an object that counts.
        ignored_bits: ``(D,)`` the same for objects that do not count.
        area_ranges: A.
    """

    detections: np.ndarray
    found_bits: np.ndarray
    ignored_bits: np.ndarray
    area_ranges: int

    @cached_property
    def found(self) -> np.ndarray:
        """``(D, T, A)`` whether a detection matches an object that counts."""
        return self._table(self.found_bits)

    @cached_property
    def ignored(self) -> np.ndarray:
        """``(D, T, A)`` whether a detection matches an object that does not count."""
        return self._table(self.ignored_bits)

    def _table(self, bits: np.ndarray) -> np.ndarray:
        table = np.empty((len(bits), _T, self.area_ranges), dtype=bool)
        for t, a in np.ndindex(_T, self.area_ranges):
            table[:, t, a] = bits & bit_of(t, a, self.area_ranges)
        return table


def match(edges: Edges, pairs: np.ndarray, ignored: np.ndarray) -> Matches:
    """Match detections with objects greedily.

    Objects that count are preferred to objects that do not, then higher IoUs, then later objects.

    Args:
        edges: Edges of the scored detections.
        pairs: Keys of the pairs of all scored detections. The detections of a pair are consecutive
            and sorted by descending score.
        ignored: ``(G, A)`` whether an object does not count for an area range.
    """
    A = ignored.shape[1]
    counting = _bits_that_count(ignored)
    free = np.full(len(ignored), np.iinfo(np.uint64).max)
    first = np.flatnonzero(starts_of_runs(edges.detections))
    detections = edges.detections[first]
    found, other = np.zeros((2, len(detections)), dtype=np.uint64)
    for steps in _steps(edges, pairs[detections], first):
        allowed = [(d, objects, _reached(ious, A)) for d, objects, ious in steps]
        if len(allowed) == 1:  # no detection can choose, so both kinds are taken at once
            ((d, objects, reached),) = allowed
            taken = reached & free[objects]
            free[objects] ^= taken
            found[d] = taken & counting[objects]
            other[d] = taken & ~counting[objects]
            continue
        for into, is_kind in ((found, counting), (other, ~counting)):
            for d, objects, reached in allowed:
                taken = reached & free[objects] & is_kind[objects] & ~(found[d] | other[d])
                free[objects] ^= taken
                into[d] |= taken
    return Matches(detections, found, other, A)


def _bits_that_count(ignored: np.ndarray) -> np.ndarray:
    """Return ``(G,)`` bits of the thresholds and area ranges for which each object counts."""
    A = ignored.shape[1]
    at_one_threshold = (~ignored) @ (np.uint64(1) << np.arange(A, dtype=np.uint64))
    return at_one_threshold * np.uint64(sum(1 << (t * A) for t in range(_T)))


def _reached(ious: np.ndarray, area_ranges: int) -> np.ndarray:
    """Return the bits of the thresholds that IoUs reach, for all area ranges."""
    bits = np.array([(1 << (t * area_ranges)) - 1 for t in range(_T + 1)], dtype=np.uint64)
    return bits[np.searchsorted(IOU_THRESHOLDS, ious, side="right")]


def _steps(
    edges: Edges, pairs: np.ndarray, first: np.ndarray
) -> Iterator[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Yield the edges of the first detections of all pairs, then of the second ones, and so on.

    Args:
        edges: Edges of all D detections.
        pairs: ``(D,)`` pairs of the detections.
        first: ``(D,)`` first edge of each detection.

    Yields:
        Detections, objects and IoUs of the best edges, of the second best edges, and so on. No two
        of the detections are of one pair.
    """
    ends = np.append(first, len(edges.detections))[1:]
    number = ends - first
    detection = np.repeat(np.arange(len(first)), number)
    from_best = np.repeat(ends, number) - np.arange(len(detection)) - 1
    ranks = rank_in_runs(pairs)
    rank = ranks[detection]
    order = stable_order(from_best, rank)
    bounds = np.searchsorted(rank[order], np.arange(ranks.max(initial=-1) + 2))
    for start, stop in itertools.pairwise(bounds.tolist()):
        rows = order[start:stop]
        inner = np.flatnonzero(starts_of_runs(from_best[rows])).tolist()
        yield [
            (detection[step], edges.objects[step], edges.ious[step])
            for step in (rows[a:b] for a, b in itertools.pairwise([*inner, len(rows)]))
        ]
