"""What becomes of the objects of rare categories: who takes them, and how many nobody sees."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from d2_seesaw.evaluation.analysis import LongTailAnalysis
from d2_seesaw.evaluation.lvis.annotations import FREQUENCIES, UNKNOWN_FREQUENCY
from d2_seesaw.evaluation.tables import CategoryResult

RIGHT, MISSED = "right", "missed"


@dataclass(frozen=True)
class Swallowed:
    """Objects of a category that the model takes for one with more training images.

    Attributes:
        category: What the objects are.
        by: What the model takes them for.
        objects: How many it takes for that.
        of: Objects of the category, all that count.
    """

    category: CategoryResult
    by: CategoryResult
    objects: int
    of: int

    @property
    def share(self) -> float:
        """In (0, 1]."""
        return self.objects / self.of


def group_outcomes(analysis: LongTailAnalysis) -> dict[str, dict[str, int]]:
    """Numbers of objects by the frequency group of their category, and by what names them.

    Returns:
        For "r", "c" and "f", and for "n/a" where there are categories of unknown frequency, how
        many objects are "right", how many are named as another category of the group "r", "c",
        "f" or "n/a", which may be their own group, and how many are "missed".
    """
    groups = {category.category_id: category.frequency for category in analysis.categories}
    outcomes = (RIGHT, *FREQUENCIES, UNKNOWN_FREQUENCY, MISSED)
    true_groups: tuple[str, ...] = FREQUENCIES
    if UNKNOWN_FREQUENCY in groups.values():
        true_groups = (*FREQUENCIES, UNKNOWN_FREQUENCY)
    counts: dict[str, dict[str, int]]
    counts = {group: dict.fromkeys(outcomes, 0) for group in true_groups}
    for confusion in analysis.confusions:
        outcome = RIGHT
        if confusion.predicted_id is None:
            outcome = MISSED
        elif confusion.predicted_id != confusion.category_id:
            outcome = groups[confusion.predicted_id]
        counts[groups[confusion.category_id]][outcome] += confusion.objects
    return counts


def swallowed(analysis: LongTailAnalysis) -> list[Swallowed]:
    """Every pair of a category and a more frequent one that the model takes its objects for.

    More frequent is the one with more training images; where these are not known of both, the one
    of the more frequent group. Pairs that neither orders are not listed.

    Returns:
        Those with most objects first; of as many, those with the larger share of the category; then
        in order of the ids.
    """
    categories = {category.category_id: category for category in analysis.categories}
    of: Counter[int] = Counter()
    for confusion in analysis.confusions:
        of[confusion.category_id] += confusion.objects
    pairs = [
        Swallowed(
            categories[c.category_id], categories[c.predicted_id], c.objects, of[c.category_id]
        )
        for c in analysis.confusions
        if c.predicted_id is not None
        and _is_more_frequent(categories[c.predicted_id], categories[c.category_id])
    ]
    return sorted(
        pairs,
        key=lambda s: (-s.objects, -s.share, s.category.category_id, s.by.category_id),
    )


def _is_more_frequent(one: CategoryResult, other: CategoryResult) -> bool:
    if one.train_images is not None and other.train_images is not None:
        return one.train_images > other.train_images
    if UNKNOWN_FREQUENCY in (one.frequency, other.frequency):
        return False
    return FREQUENCIES.index(one.frequency) > FREQUENCIES.index(other.frequency)
