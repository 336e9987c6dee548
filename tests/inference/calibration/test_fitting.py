"""Fits recover a bias that was planted in the scores."""

import re

import numpy as np
import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import BoxMode

from d2_seesaw.evaluation import Detections
from d2_seesaw.inference.calibration import (
    FittingSplit,
    fit_exponent,
    fit_temperatures,
    groups_of,
)
from d2_seesaw.inference.calibration.collecting import LabeledScores
from d2_seesaw.inference.calibration.fitting import candidates_of
from d2_seesaw.inference.calibration.splits import ground_truth_of
from d2_seesaw.layers import Calibration, ScoreCalibration
from d2_seesaw.layers.calibration import STRUCTURES, log_odds

C = 6
IMAGES = np.array([2, 9, 30, 80, 300, 5000])
PLANTED = {"rare": 0.6, "common": 1.7, "frequent": 1.3}


def neutral(structure):
    values = dict.fromkeys(PLANTED, 1.0)
    return Calibration("temperature", values, C, structure, groups=groups_of(IMAGES))


def biased_scores(structure, rois):
    """Draw labels from true probabilities, and return scores whose temperatures are planted.

    A model whose log odds are the true ones times T needs the temperature T.
    """
    slopes = torch.tensor(
        [PLANTED[{"r": "rare", "c": "common"}.get(g, "frequent")] for g in "rrccff"]
    )
    odds = 1.5 * torch.randn(rois, C, dtype=torch.float64)
    zero = torch.zeros(rois, 1, dtype=torch.float64)
    if structure == "background":
        true = torch.cat([odds, zero], dim=1).softmax(dim=1)
        labels = true.multinomial(1).squeeze(1)
        return torch.cat([odds * slopes, zero], dim=1).softmax(dim=1), labels
    if structure == "foreground":
        # The odds against all classes together, which softmax makes of the odds.
        true = odds.softmax(dim=1)
        labels = true.multinomial(1).squeeze(1)
        # Log odds l that give the true ones at the planted temperatures: l / T = log p + constant.
        biased = bisect_constant(true.log(), slopes)
        share = biased.exp()
        return torch.cat([0.7 * share, zero + 0.3], dim=1), labels
    present = torch.rand(rois, C, dtype=torch.float64) < odds.sigmoid()
    one = present.sum(dim=1) <= 1  # a RoI has one label
    labels = torch.where(present.any(dim=1), present.double().argmax(dim=1), C)[one]
    objectness = 0.7 if structure == "objectness" else 1.0
    scores = torch.cat([objectness * (odds * slopes).sigmoid(), zero + 1 - objectness], dim=1)
    return scores[one], labels


def bisect_constant(logs, slopes):
    """Return slopes * (logs + k), with the k of each row for which their exponentials sum to 1."""
    low, high = torch.full_like(logs[:, :1], -60), torch.full_like(logs[:, :1], 60)
    for _ in range(80):
        middle = (low + high) / 2
        above = (slopes * (logs + middle)).exp().sum(dim=1, keepdim=True) > 1
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return slopes * (logs + low)


@pytest.mark.parametrize("structure", ["background", "foreground"])
def test_planted_temperatures_are_recovered(structure):
    scores, labels = biased_scores(structure, 30_000)
    known = torch.ones(len(labels), C, dtype=torch.bool)
    fit = fit_temperatures(LabeledScores(scores, labels, known), neutral(structure))
    assert fit.calibration.parameters == pytest.approx(PLANTED, rel=0.06)
    assert "criterion: negative log-likelihood of" in fit.report


def likelihood_by_hand(scores, labels, known, structure):
    rows = []
    for p, label, looked in zip(scores.numpy(), labels.tolist(), known.numpy(), strict=True):
        if structure == "background":
            rows.append(-np.log(p[label]))
        elif structure == "foreground" and label < C:
            rows.append(-np.log(p[label] / p[:-1].sum()))
        elif structure == "independent" or (structure == "objectness" and label < C):
            q = p[:-1] if structure == "independent" else p[:-1] / (1 - p[-1])
            rows.append(-np.log(np.where(np.arange(C) == label, q, 1 - q))[looked].sum())
    return np.mean(rows)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_minimum_of_the_likelihood_is_found(structure):
    scores, labels = biased_scores(structure, 400)
    known = torch.rand(len(labels), C) < 0.7
    known[labels < C, labels[labels < C]] = True
    fit = fit_temperatures(LabeledScores(scores, labels, known), neutral(structure))

    def likelihood(calibration):
        return likelihood_by_hand(ScoreCalibration(calibration)(scores), labels, known, structure)

    best = likelihood(fit.calibration)
    assert f"{likelihood(neutral(structure)):.4f} without calibration, {best:.4f}" in fit.report
    for name, value in fit.calibration.parameters.items():
        for factor in (0.98, 1.02):
            moved = {**fit.calibration.parameters, name: value * factor}
            other = Calibration("temperature", moved, C, structure, groups=groups_of(IMAGES))
            assert likelihood(other) > best


def test_a_group_without_labeled_rois_keeps_its_temperature():
    scores, labels = biased_scores("background", 2000)
    seen = labels >= 2  # no rare class
    known = torch.ones(int(seen.sum()), C, dtype=torch.bool)
    rois = LabeledScores(scores[seen], labels[seen], known)
    assert fit_temperatures(rois, neutral("background")).calibration.parameters["rare"] == 1
    nothing = LabeledScores(scores, torch.full_like(labels, C), torch.ones(len(labels), C).bool())
    with pytest.raises(ValueError, match=r"no RoI .* is labeled as an object"):
        fit_temperatures(nothing, neutral("background"))


def test_temperatures_at_their_bound_or_of_few_rois_are_named():
    scores = torch.full((40, C + 1), 0.14, dtype=torch.float64)
    labels = torch.tensor([0] * 9 + [2] * 31)  # rare, common
    scores[torch.arange(40), labels] = 0.16
    rois = LabeledScores(scores, labels, torch.ones(40, C, dtype=torch.bool))
    fit = fit_temperatures(rois, neutral("background"))  # all are right: the sharper the better
    start = "warning: the temperature of"
    few, bound = (
        "labeled RoIs of objects decide it",
        "it is at or near the bound of its range, 0.1 to 10",
    )
    assert fit.report.splitlines()[-3:] == [
        f"{start} rare classes is doubtful: only 9 {few} and {bound}",
        f"{start} common classes is doubtful: {bound}",
        f"{start} frequent classes is doubtful: only 0 {few}",
    ]


def test_scores_of_zero_have_finite_gradients():
    scores, labels = biased_scores("background", 100)
    scores[:, 0] = 0
    known = torch.ones(len(labels), C, dtype=torch.bool)
    fit = fit_temperatures(LabeledScores(scores, labels, known), neutral("background"))
    assert all(np.isfinite(list(fit.calibration.parameters.values())))


def planted(structure, gamma):
    """Return ground truth, and scores of two RoIs per image whose NorCal exponent is planted.

    The true class has twice the odds of the other one. The scores are biased by N_c^gamma, so that
    the frequent class has the highest score everywhere. One detection per image is kept.
    """
    counts = np.array([3, 3000])
    records, scores, boxes = [], [], []
    for image in range(10):
        true = image % 2
        box = [10.0, 10.0, 30.0, 30.0]
        annotation = {"category_id": true, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
        record = {"height": 40, "width": 40, "annotations": [annotation]}
        records.append({**record, "file_name": f"{image}.png"})
        odds = np.where(np.arange(2) == true, 2.0, 1.0) * counts.astype(float) ** gamma
        if structure == "background":
            row = [*odds, 1.0] / (1 + odds.sum())
        elif structure == "foreground":
            row = [*0.6 * odds / odds.sum(), 0.4]
        else:
            objectness = 0.6 if structure == "objectness" else 1.0
            row = [*objectness * odds / (1 + odds), 1 - objectness]
        scores.append(torch.tensor(row, dtype=torch.float32)[None])
        boxes.append(torch.tensor([box]))
    truth = ground_truth_of(FittingSplit(["planted"], records, 10, 0), 2, counts)
    return counts, truth, boxes, scores


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("method", ["norcal", "logit-adjustment"])
def test_a_planted_exponent_is_recovered_by_average_precision(method, structure, gamma):
    counts, truth, boxes, scores = planted(structure, gamma)
    name = {"norcal": "gamma", "logit-adjustment": "tau"}[method]
    template = Calibration(method, {name: 0.0}, 2, structure, counts.tolist())
    candidates = candidates_of(template, [1.25, 1.0, 0.75, 0.5, 0.25])
    found = []
    for candidate in candidates:
        calibrated = [ScoreCalibration(candidate)(image) for image in scores]
        instances, _ = fast_rcnn_inference(boxes, calibrated, [(40, 40)] * 10, 0.0, 0.5, 1)
        ids = {0: 1, 1: 2}
        parts = [Detections.from_instances(x, i, ids) for i, x in enumerate(instances)]
        found.append(Detections.concatenate(parts))
    fit = fit_exponent(candidates, found, truth)
    assert fit.calibration.parameters == {name: gamma}
    assert re.search(rf"\| +{gamma:g} +\| 100\.000 .*< ", fit.report)
    assert "criterion: AP of boxes" in fit.report


def test_equal_candidates_give_the_smallest_exponent():
    counts, truth, boxes, scores = planted("background", 0.0)
    template = Calibration("norcal", {"gamma": 0.0}, 2, class_counts=counts.tolist())
    candidates = candidates_of(template, [-0.5, 0.5])
    assert [c.parameters["gamma"] for c in candidates] == [-0.5, 0.0, 0.5]
    instances, _ = fast_rcnn_inference(boxes, scores, [(40, 40)] * 10, 0.0, 0.5, 1)
    parts = [Detections.from_instances(x, i, {0: 1, 1: 2}) for i, x in enumerate(instances)]
    same = [Detections.concatenate(list(parts)) for _ in candidates]
    assert fit_exponent(candidates, same, truth).calibration.parameters == {"gamma": 0.0}


def test_log_odds_are_those_of_the_structure():
    scores = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    expected = {
        "background": [0.2 / 0.5, 0.3 / 0.5],
        "foreground": [0.4, 0.6],
        "objectness": [0.4 / 0.6, 0.6 / 0.4],
        "independent": [0.25, 3 / 7],
    }
    for structure, odds in expected.items():
        torch.testing.assert_close(log_odds(scores, structure).exp()[0].tolist(), odds)
