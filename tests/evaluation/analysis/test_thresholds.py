"""Score thresholds, compared with loops over the matches of lvis-api and with closed forms."""

import math

import numpy as np
import pytest

from d2_seesaw.evaluation.analysis.operating_points import (
    BEST_F1,
    Ranking,
    ThresholdRule,
)
from d2_seesaw.evaluation.analysis.threshold_analysis import thresholds_text
from d2_seesaw.evaluation.analysis.thresholds import (
    Outcomes,
    ThresholdFit,
    image_folds,
)
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import match_detections
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.scoring import LVISScoring
from tests.evaluation.analysis.test_calibration import MORE_TRAITS, TRAITS, outcomes_of_lvis
from tests.evaluation.federated_cases import federated_case

RULES = [BEST_F1, *(ThresholdRule(k, t) for k in ("precision", "recall") for t in (0.3, 0.6, 0.95))]


def outcomes_of(data, results, task="bbox"):
    ground_truth = GroundTruthColumns.from_dataset(data)
    detections = Detections.from_results(results)
    matched = match_detections(ground_truth, detections, task, limits=DetectionLimits())
    return Outcomes.of_matches(ground_truth, matched)


def counted_objects(data, category_id):
    return sum(
        a["category_id"] == category_id and a["area"] > 0 and not a.get("ignore")
        for a in data["annotations"]
    )


def value_of(rule, right, detections, objects):
    """Return what a rule prefers: larger tuples are better."""
    precision, recall = right / detections, right / objects
    if rule.kind == "best-f1":
        return (2 * precision * recall / (precision + recall) if right else 0.0,)
    wanted, other = (precision, recall) if rule.kind == "precision" else (recall, precision)
    if wanted >= rule.target:
        return 1, other, wanted
    return 0, wanted, other


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_other_threshold_is_better_by_the_matches_of_lvis(rule):
    compared = 0
    for seed in range(3):
        data, results = federated_case(seed, *TRAITS, *MORE_TRAITS)
        ids = sorted(c["id"] for c in data["categories"])
        found = list(outcomes_of_lvis(data, results, "bbox", 300))
        points, _ = ThresholdFit(outcomes_of(data, results)).points()
        for category_id, own in zip(ids, points, strict=True):
            mine = [(score, right) for score, c, right in found if c == category_id]
            objects = counted_objects(data, category_id)
            assert own.objects == objects
            selected = own.select(rule)
            assert (selected is None) == (not any(right for _, right in mine))
            if selected is None:
                continue
            kept = {t: [r for s, r in mine if s >= t] for t, _ in mine}
            values = [value_of(rule, sum(k), len(k), objects) for k in kept.values()]
            at, reached = selected
            chosen = [r for s, r in mine if s >= own.thresholds[at]]
            assert (own.right[at], own.detections[at]) == (sum(chosen), len(chosen))
            value = value_of(rule, sum(chosen), len(chosen), objects)
            assert value == pytest.approx(max(values), abs=1e-12)
            assert reached == (rule.kind == "best-f1" or value[0] == 1)
            compared += 1
    assert compared > 8


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_counts_equal_those_of_detections_that_are_left_out_before_matching(task):
    data, results = federated_case(1, *TRAITS, *MORE_TRAITS)
    outcomes = outcomes_of(data, results, task)
    for threshold in (0.2, 0.4, 0.6):
        counts = outcomes.counts(np.full(outcomes.number, threshold))
        again = outcomes_of(data, [r for r in results if r["score"] >= threshold], task)
        everything = again.counts(np.zeros(outcomes.number))
        assert counts.right.tolist() == everything.right.tolist()
        assert counts.detections.tolist() == everything.detections.tolist()
        assert 0 < counts.right.sum() < counts.detections.sum()


def points_of(*detections, objects=4):
    scores, right = zip(*sorted(detections, reverse=True), strict=True)
    ranking = Ranking.of_sets(np.array(scores), np.zeros(len(scores), int), np.array(right), 1)
    return ranking.points(np.array([objects]))[0]


def test_the_threshold_of_separable_scores_is_halfway_between_both_kinds():
    wrong = [(0.1 + i / 100, False) for i in range(10)]
    right = [(0.5 + i / 10, True) for i in range(4)]
    own = points_of(*wrong, *right)
    for rule in (BEST_F1, ThresholdRule("precision", 1.0), ThresholdRule("recall", 1.0)):
        selected = own.select(rule)
        assert selected is not None
        at, reached = selected
        assert own.thresholds[at] == pytest.approx((0.19 + 0.5) / 2)
        assert (own.right[at], own.detections[at], reached) == (4, 4, True)


def test_equal_scores_are_kept_together_and_the_lowest_threshold_is_the_lowest_score():
    own = points_of((0.7, True), (0.7, False), (0.7, True), (0.4, True))
    assert own.thresholds.tolist() == [0.4]  # at 0.7, precision and recall are both lower
    assert (own.right[0], own.detections[0]) == (3, 4)
    next_lower = np.nextafter(np.float32(0.7), np.float32(0))
    own = points_of((float(np.float32(0.7)), True), (float(next_lower), False))
    assert np.float32(own.thresholds[0]) == np.float32(0.7)


def test_targets_that_no_threshold_reaches_give_the_nearest_point():
    own = points_of((0.9, False), (0.8, True), (0.7, True), (0.6, False), (0.5, False), objects=10)
    assert own.select(ThresholdRule("precision", 0.9)) == (0, False)
    assert (own.right[0], own.detections[0]) == (2, 3)
    assert own.select(ThresholdRule("recall", 0.5)) == (0, False)


def simulated(rng, categories, images, *, frequency="f"):
    """Return outcomes of categories with their own scores; about 12 of 16 objects are found."""
    shift = np.random.default_rng(0).normal(0, 0.7, categories)  # the same in all samples
    rows = []
    for wrong, number in ((False, 16), (True, 30)):
        owner = np.repeat(np.arange(categories), rng.poisson(number * images / 100, categories))
        scores = 1 / (1 + np.exp(-rng.normal(shift[owner] - 1.2 * wrong, 1)))
        places = rng.integers(0, images, len(owner))
        rows.append((owner, scores, places, np.full(len(owner), not wrong)))
    owner, scores, places, right = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    object_categories, object_images = owner[right], places[right]
    kept = ~right | (rng.random(len(right)) < 0.75)
    order = np.flatnonzero(kept)[np.lexsort((-scores[kept], owner[kept]))]
    return Outcomes(
        *(x[order] for x in (scores, owner, places, right)),
        object_categories,
        object_images,
        {frequency: np.arange(categories)},
        categories,
    )


def test_cross_fitted_f1_is_that_of_new_images_and_in_sample_f1_is_too_high():
    rng = np.random.default_rng(3)
    given, new = simulated(rng, 300, 100), simulated(rng, 300, 3000)
    fit = ThresholdFit(given)
    thresholds = fit.select([BEST_F1])[0].values
    (held_out,) = fit.cross_fitted_counts([BEST_F1], image_folds(np.arange(100), given))
    assert held_out.objects.tolist() == given.object_counts().tolist()
    on_new, cross_fitted, in_sample = (
        counts.f1.mean() for counts in (new.counts(thresholds), held_out, given.counts(thresholds))
    )
    assert abs(cross_fitted - on_new) < 2
    assert in_sample > on_new + 6


@pytest.mark.parametrize(
    ("right_of_images", "parts", "f1"),
    [
        ([[0.9, 0.8]], 1, None),
        ([[0.9, 0.8], []], 2, None),
        ([[0.9], [0.8]], 2, 200 / 3),  # the threshold for 0.8 is 0.9
        ([[0.9], [0.9], [0.8], []], 4, 80.0),  # 2 of 3 objects, without a wrong detection
        ([[], []], 2, 0.0),  # there is nothing to find at any threshold
    ],
)
def test_cross_fitted_f1_needs_other_images_with_a_right_detection(right_of_images, parts, f1):
    """Every detection is right. Without any, each image has an object that is missed."""
    data = federated_case(3)[0]
    data["images"] = [{**data["images"][0], "id": i} for i, _ in enumerate(right_of_images, 1)]
    category = data["categories"][0]["id"]
    data["categories"], data["annotations"], results = data["categories"][:1], [], []
    for image, scores in zip(data["images"], right_of_images, strict=True):
        image |= {"neg_category_ids": [category], "not_exhaustive_category_ids": []}
        for place, score in enumerate(scores or [None]):
            box = [40 * place, 0, 30, 30]
            entry = {"image_id": image["id"], "category_id": category, "bbox": box}
            if score is not None:
                results.append(entry | {"score": score})
            if score is not None or not any(right_of_images):
                data["annotations"].append(
                    entry | {"id": len(data["annotations"]) + 1, "area": 900, "iscrowd": 0}
                )
    result = LVISScoring().score(
        GroundTruthColumns.from_dataset(data),
        Detections.from_results(results),
        ["bbox"],
        train_images={},
    )
    (analysis,) = result.analyses
    best = {s.rule: s for s in analysis.thresholds.summaries if s.group == "all"}["best-f1"]
    text = thresholds_text(analysis.thresholds)
    assert analysis.thresholds.folds == parts
    if f1 is None:
        assert all(math.isnan(value) for value in (best.F1, best.precision, best.recall))
        assert math.isnan(analysis.thresholds.categories[0].F1_cross_fitted)
        assert best.F1_in_sample == 100
        reason = "one image cannot be divided" if parts == 1 else f"one of the {parts} parts"
        assert "category: n/a, because" in text
        assert reason in text
        assert "at 0.5 for all: 100.000" in text
    else:
        assert pytest.approx(f1) == best.F1
        assert f"category: {f1:.3f}, cross-fitted over {parts} parts of the images; at" in text


def test_a_category_with_few_objects_has_the_threshold_of_its_group_then_of_all():
    right_of = {0: [0.9] * 9, 1: [0.4] * 2, 2: [0.6] * 2, 3: [], 4: [0.2]}
    wrong_of = {0: [0.45] * 5, 1: [0.3], 2: [0.3], 3: [0.1], 4: [0.1]}
    rows = [
        (k, s, is_right)
        for k in right_of
        for is_right, of in ((True, right_of), (False, wrong_of))
        for s in of[k]
    ]
    owner, score, right = map(np.array, zip(*rows, strict=True))
    images = np.zeros(len(rows), int)
    groups = {"r": np.array([1, 2]), "c": np.array([3, 4]), "f": np.array([0])}
    outcomes = Outcomes(score, owner, images, right, owner[right], images[right], groups, 5)
    found, fixed = ThresholdFit(outcomes).select([BEST_F1, ThresholdRule("score", 0.3)])
    assert found.origins == ["own", "r", "r", "all", "all"]
    own, rare = (0.9 + 0.45) / 2, (0.4 + 0.3) / 2
    everything = (0.6 + 0.45) / 2  # lower ones add 2 right detections and 5 wrong ones
    assert found.values == pytest.approx([own, rare, rare, everything, everything])
    (nothing,) = ThresholdFit(outcomes).select([BEST_F1], np.array([False]))
    assert nothing.values.tolist() == [math.inf] * 5
    assert fixed.values.tolist() == [0.3] * 5


def test_folds_spread_each_category_and_do_not_depend_on_the_order_of_images():
    rng = np.random.default_rng(0)
    ids = np.arange(1000, 1200)
    owner = rng.choice(4, 300, p=[0.02, 0.08, 0.3, 0.6])
    images = rng.integers(0, 200, 300)

    def folds(images, ids):
        empty = np.zeros(0, int)
        given = Outcomes(empty, empty, empty, empty, owner, images, {}, 4)
        return image_folds(ids, given)

    found = folds(images, ids)
    for category in range(4):
        own = np.unique(images[owner == category])
        sizes = np.bincount(found[own], minlength=5)
        assert sizes.max() - sizes.min() <= (1 if category == 0 else 4), sizes
    sizes = np.bincount(found)
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 8
    permuted = rng.permutation(200)
    assert folds(np.argsort(permuted)[images], ids[permuted]).tolist() == found[permuted].tolist()


@pytest.mark.parametrize("text", ["best-f1", "precision=0.9", "recall=0.8", "0.3"])
def test_rules_are_read_from_their_text(text):
    assert str(ThresholdRule.parse(text)) == text
    assert ThresholdRule.parse(0.3) == ThresholdRule.parse("0.3")


@pytest.mark.parametrize("text", ["best", "precision", "recall=2", "f1=0.3", "-0.1", "nan", ""])
def test_other_rules_are_refused(text):
    with pytest.raises(ValueError, match=rf"best-f1, precision=P, .*, got '{text}'"):
        ThresholdRule.parse(text)
