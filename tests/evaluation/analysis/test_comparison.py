import dataclasses
import itertools
import math
import time

import numpy as np
import pytest

from d2_seesaw.evaluation.analysis.comparison import compare, paired_bootstrap
from tests.evaluation.analysis_data import NAN, analysis, category, lvis_like

GROUPS = ["r", "r", "c", "f"]


def run(*aps, confusions=(), **options):
    rows = [
        category(i, group, 10**i, ap, objects=i)
        for i, (group, ap) in enumerate(zip(GROUPS, aps, strict=False), start=1)
    ]
    return analysis(rows, confusions, **options)


def test_differences_are_second_minus_first():
    found = compare(run(10, 20, 30, NAN), run(11, 18, 30, NAN))
    assert found.differences == [pytest.approx(v, nan_ok=True) for v in (1, -2, 0, NAN)]
    assert found.groups["r"].mean == pytest.approx(-0.5)
    assert found.groups["c"].mean == 0
    assert math.isnan(found.groups["f"].mean)
    assert found.groups["all"].mean == pytest.approx(-1 / 3)
    assert [found.groups[g].categories for g in ("all", "r", "c", "f")] == [3, 2, 1, 0]


def test_the_mean_over_a_group_is_the_difference_of_its_metric():
    first, second = lvis_like(200), lvis_like(200, seed=1, tail=0.3)
    found = compare(first, second)
    for group, metric in {"all": "AP", "r": "APr", "c": "APc", "f": "APf"}.items():
        assert found.groups[group].mean == pytest.approx(found.metric_difference(metric))


def test_a_metric_that_one_run_lacks_has_no_difference():
    found = compare(run(1, 2, 3, NAN), run(1, 2, 3, 4))
    assert math.isnan(found.metric_difference("APf"))
    assert math.isnan(found.metric_difference("no such metric"))


def test_equal_differences_have_an_interval_of_zero_width():
    found = paired_bootstrap([1.5] * 40)
    assert (found.mean, found.low, found.high, found.categories) == (1.5, 1.5, 1.5, 40)


def test_the_interval_of_two_categories_spans_both():
    # Each category is drawn twice in a quarter of the samples, which is more than 2.5 %.
    found = paired_bootstrap([-1.0, 3.0])
    assert (found.low, found.mean, found.high) == (-1.0, 1.0, 3.0)


def test_the_interval_approximates_that_of_all_possible_draws():
    differences = [-3.0, 0.0, 1.0, 2.0, 7.0]
    means = [sum(draw) / 5 for draw in itertools.product(differences, repeat=5)]
    low, high = np.quantile(means, [0.025, 0.975])
    found = paired_bootstrap(differences, resamples=200_000)
    assert found.low == pytest.approx(low, abs=0.1)
    assert found.high == pytest.approx(high, abs=0.1)


def test_the_interval_of_many_categories_is_that_of_a_normal_distribution():
    differences = np.random.default_rng(0).normal(2.0, 5.0, 1000)
    found = paired_bootstrap(differences.tolist())
    error = 1.96 * differences.std() / math.sqrt(1000)
    assert found.high - found.mean == pytest.approx(error, rel=0.04)
    assert found.mean - found.low == pytest.approx(error, rel=0.04)


def test_one_category_has_no_interval_and_zero_categories_have_no_mean():
    one = paired_bootstrap([2.0, NAN])
    assert (one.mean, one.categories) == (2.0, 1)
    none = paired_bootstrap([NAN])
    assert none.categories == 0
    assert all(math.isnan(v) for v in (one.low, one.high, none.mean, none.low, none.high))


def test_a_comparison_gives_an_interval_from_ten_categories_on():
    aps = np.random.default_rng(0).uniform(0, 100, 10).tolist()
    for number, has_interval in ((9, False), (10, True)):
        rows = [category(i, "r", 5, ap, objects=1) for i, ap in enumerate(aps[:number], start=1)]
        better = [dataclasses.replace(row, AP=row.AP + row.category_id) for row in rows]
        found = compare(analysis(rows), analysis(better)).groups["r"]
        assert found.mean == pytest.approx((number + 1) / 2)
        assert found.categories == number
        assert [math.isfinite(end) for end in (found.low, found.high)] == [has_interval] * 2


def test_the_seed_determines_the_draws():
    differences = np.random.default_rng(0).normal(0, 5, 30).tolist()
    one, again, other = (paired_bootstrap(differences, seed=s, resamples=99) for s in (1, 1, 2))
    assert one == again
    assert one != other
    runs = lvis_like(60), lvis_like(60, seed=1)
    groups = [compare(*runs, seed=s).groups["all"] for s in (0, 0, 3)]
    assert groups[0] == groups[1] == compare(*runs).groups["all"]
    assert groups[0] != groups[2]


def test_drawing_in_blocks_does_not_change_the_interval(monkeypatch):
    differences = np.random.default_rng(0).normal(0, 5, 30).tolist()
    whole = paired_bootstrap(differences, resamples=500)
    monkeypatch.setattr("d2_seesaw.evaluation.analysis.comparison._DRAWN_AT_ONCE", 30 * 7)
    assert paired_bootstrap(differences, resamples=500) == whole


def test_changed_categories_start_with_the_greatest_gain():
    found = compare(run(10, 20, NAN, 40), run(15, 10, NAN, 45))
    changed = [(a.category_id, b.AP, d) for a, b, d in found.changed_categories()]
    assert changed == [(4, 45, 5), (1, 15, 5), (2, 10, -10)]  # of 4 and 1, 4 has more objects


def test_changed_pairs_have_both_counts_and_their_difference():
    first = run(1, 2, 3, 4, confusions=[(1, 4, 5), (1, 3, 2), (2, 4, 1), (1, 1, 3)])
    second = run(1, 2, 3, 4, confusions=[(1, 4, 1), (1, 3, 2), (3, 4, 9), (1, 1, 7), (4, 1, 5)])
    changes = [
        (p.pair.category.category_id, p.pair.predicted.category_id, p.first, p.second, p.difference)
        for p in compare(first, second).pairs
    ]
    assert changes == [(3, 4, 0, 9, 9), (1, 4, 5, 1, -4), (2, 4, 1, 0, -1)]


def test_runs_are_keyed_by_their_names():
    first, second = run(1, 2), run(2, 3)
    assert compare(first, second, names=("a", "b")).runs == {"a": first, "b": second}


def test_runs_that_cannot_be_compared_are_refused():
    one = run(1, 2, 3, 4)
    with pytest.raises(ValueError, match="a is of 'bbox', b of 'segm'"):
        compare(one, run(1, 2, 3, 4, task="segm"), names=("a", "b"))
    with pytest.raises(ValueError, match=r"different annotations \(a1 and z9\)"):
        compare(one, run(1, 2, 3, 4, truth="z9"))
    with pytest.raises(ValueError, match="two names, got 'a' for both"):
        compare(one, one, names=("a", "a"))
    renamed = [dataclasses.replace(one.categories[0], name="x"), *one.categories[1:]]
    with pytest.raises(ValueError, match=r"category 1 is .* in first and 'x' in second \(1 such"):
        compare(one, dataclasses.replace(one, categories=renamed))
    regrouped = [dataclasses.replace(c, frequency="c") for c in one.categories]
    with pytest.raises(ValueError, match=r"3 categories into different .* first.* 1"):
        compare(one, dataclasses.replace(one, categories=regrouped))
    with pytest.raises(ValueError, match="1 categories into different frequency groups"):
        compare(one, dataclasses.replace(one, categories=one.categories[:3]))


@pytest.mark.slow
def test_lvis_is_compared_in_seconds():
    start = time.perf_counter()
    compare(lvis_like(), lvis_like(seed=1))
    assert time.perf_counter() - start < 10
