import itertools
import math
import random

import pytest

from d2_seesaw.evaluation.analysis import Confusion, LongTailAnalysis
from d2_seesaw.evaluation.analysis.confusion import confusions_with_more_frequent, group_outcomes
from d2_seesaw.evaluation.tables import CategoryResult

RARE, OTHER_RARE, COMMON, FREQUENT = 1, 2, 3, 4


def category(category_id, group, train_images):
    scores = {"AP": math.nan, "AP50": math.nan, "AR": math.nan}
    counts = {"train_images": train_images, "gt_images": 1, "gt_instances": 1}
    return CategoryResult(category_id, f"name {category_id}", group, **counts, **scores)


CATEGORIES = [
    category(RARE, "r", 5),
    category(OTHER_RARE, "r", 7),
    category(COMMON, "c", 50),
    category(FREQUENT, "f", 500),
]


def analysis(confusions, categories=CATEGORIES, task="bbox"):
    """Build an analysis of ``(category, predicted, objects)`` tuples."""
    confusions = [Confusion(*c) for c in confusions]
    return LongTailAnalysis(task, "", 1, 1, {}, categories, confusions, [])


def as_ids(pairs):
    return [(p.category.category_id, p.predicted.category_id, p.objects, p.total) for p in pairs]


def test_outcomes_count_the_objects_of_each_group():
    rare = [(RARE, RARE, 4), (RARE, OTHER_RARE, 2), (RARE, FREQUENT, 1), (OTHER_RARE, None, 3)]
    counts = group_outcomes(analysis([*rare, (FREQUENT, COMMON, 6), (FREQUENT, RARE, 5)]))
    nothing = {"right": 0, "r": 0, "c": 0, "f": 0, "n/a": 0, "missed": 0}
    assert counts == {
        "r": nothing | {"right": 4, "r": 2, "f": 1, "missed": 3},
        "c": nothing,
        "f": nothing | {"c": 6, "r": 5},
    }


def test_categories_of_unknown_frequency_are_a_group_of_their_own():
    categories = [*CATEGORIES, category(9, "n/a", None)]
    counts = group_outcomes(analysis([(RARE, 9, 2), (9, 9, 3), (9, RARE, 1)], categories))
    assert counts["r"]["n/a"] == 2
    assert counts["n/a"] == {"right": 3, "r": 1, "c": 0, "f": 0, "n/a": 0, "missed": 0}


def test_only_confusions_with_a_more_frequent_category_are_listed():
    everything = list(itertools.product(range(1, 5), [1, 2, 3, 4, None], [1]))
    pairs = as_ids(confusions_with_more_frequent(analysis(everything)))
    assert {(k, j) for k, j, *_ in pairs} == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}
    assert {of for *_, of in pairs} == {5}, "right and missed objects are of the category too"


def test_most_objects_come_first_then_the_larger_share_then_the_lower_ids():
    confusions = [
        *((RARE, FREQUENT, 2), (RARE, COMMON, 2), (RARE, None, 6)),
        *((OTHER_RARE, COMMON, 2), (OTHER_RARE, OTHER_RARE, 3)),
        *((COMMON, FREQUENT, 7), (COMMON, COMMON, 93)),
    ]
    random.Random(0).shuffle(confusions)
    found = confusions_with_more_frequent(analysis(confusions))
    assert as_ids(found) == [(3, 4, 7, 100), (2, 3, 2, 5), (1, 3, 2, 10), (1, 4, 2, 10)]
    assert [pair.share for pair in found] == [0.07, 0.4, 0.2, 0.2]


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [
        (("r", 5), ("r", 6), True),
        (("r", 5), ("r", 5), False),
        (("f", 5), ("r", 6), True),  # image counts take precedence over groups
        (("r", None), ("c", 6), True),
        (("c", 5), ("f", None), True),
        (("c", None), ("c", 99), False),
        (("f", None), ("c", None), False),
        (("n/a", None), ("f", 99), False),
        (("r", 1), ("n/a", None), False),
        (("n/a", 1), ("n/a", 2), True),
    ],
)
def test_training_images_or_else_groups_decide_what_is_more_frequent(mine, other, expected):
    pair = [category(1, *mine), category(2, *other)]
    assert bool(confusions_with_more_frequent(analysis([(1, 2, 3)], pair))) == expected
