"""Greedy matching of detections to objects, of all pairs at once.

In each pair the detections choose in order of their score, and each takes the best object that is
left. Pairs do not depend on each other, so the first of all pairs choose together, then the second,
and so on; and so do the IoU thresholds and area ranges, which are axes of the arrays.

Shapes in this module:
    E: edges
    D: detections that have an edge
    G: objects
    T: IoU thresholds
    A: area ranges
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.lvis.lvis_scores import IOU_THRESHOLDS
from d2_seesaw.evaluation.lvis.matching import Edges
from d2_seesaw.evaluation.predictions.limits import rank_in_runs


@dataclass(frozen=True)
class Matches:
    """What became of the detections that overlap an object. Others match nothing.

    Attributes:
        detections: ``(D,)`` their places among the scored detections, ascending.
        found: ``(D, T, A)`` whether it took an object that counts.
        ignored: ``(D, T, A)`` whether it took one that does not.
    """

    detections: np.ndarray
    found: np.ndarray
    ignored: np.ndarray


def match(edges: Edges, pairs: np.ndarray, ignored: np.ndarray) -> Matches:
    """Let the detections choose.

    An object that counts goes before one that does not, then the IoU decides, and of equal IoUs the
    later object.

    Args:
        edges: sorted as ``Edges`` says.
        pairs: key of the pair of each scored detection, sorted so that those of one pair stand
            together, the highest score first.
        ignored: ``(G, A)`` whether the object does not count for the area range.
    """
    first = np.flatnonzero(rank_in_runs(edges.detections) == 0)
    detections = edges.detections[first]
    rank_of_detection = rank_in_runs(pairs[detections])
    number_of_edges = np.diff(np.append(first, len(edges.detections)))
    D, (G, A), T = len(detections), ignored.shape, len(IOU_THRESHOLDS)
    matches = Matches(detections, np.zeros((D, T, A), bool), np.zeros((D, T, A), bool))
    taken = np.zeros((G, T, A), dtype=bool)

    # Rank by rank, so that the edges of those who choose together are a slice.
    by_rank = np.argsort(rank_of_detection, kind="stable")
    edge_order = np.argsort(np.repeat(rank_of_detection, number_of_edges), kind="stable")
    numbers = number_of_edges[by_rank]
    first_edge = np.cumsum(numbers) - numbers
    ranks = np.arange(rank_of_detection.max(initial=-1) + 2)
    bounds = np.searchsorted(rank_of_detection[by_rank], ranks)
    for start, stop in itertools.pairwise(bounds.tolist()):
        begin = first_edge[start]
        step = edge_order[begin : begin + numbers[start:stop].sum()]
        objects = edges.objects[step]
        is_found, is_ignored, object_taken = _choose(
            edges.ious[step], taken[objects], ignored[objects], first_edge[start:stop] - begin
        )
        chosen = by_rank[start:stop]
        matches.found[chosen], matches.ignored[chosen] = is_found, is_ignored
        d, t, a = np.nonzero(is_found | is_ignored)
        taken[objects[object_taken[d, t, a]], t, a] = True
    return matches


def _choose(
    ious: np.ndarray, taken: np.ndarray, ignored: np.ndarray, first_edge: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The choice of detections that do not compete, from ``E`` edges of theirs.

    Returns:
        Three ``(D, T, A)`` arrays: whether an object that counts was chosen, whether one that does
        not, and the edge of the one chosen, which means nothing if none was.
    """
    E = len(ious)
    possible = (ious[:, None] >= IOU_THRESHOLDS)[..., None] & ~taken
    # The best edge of a detection is its last one, unless an earlier one counts and it does not.
    value = (np.arange(1, E + 1)[:, None] + E * ~ignored).astype(np.int32)[:, None]
    best = np.maximum.reduceat(np.where(possible, value, np.int32(0)), first_edge, axis=0)
    return best > E, (best > 0) & (best <= E), (best - 1) % E
