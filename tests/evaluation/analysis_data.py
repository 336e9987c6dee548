"""Synthetic analyses of evaluations."""

import math

import numpy as np

from d2_seesaw.data.frequency import frequency_group
from d2_seesaw.evaluation.analysis import Confusion, LongTailAnalysis, ReliabilityCurve
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.evaluation.tables import CategoryResult, group_counts
from d2_seesaw.synthetic.profile import LVIS_V1_PROFILE

NAN = math.nan


def category(category_id, frequency, train_images, ap=NAN, *, objects=20, name=None):
    return CategoryResult(
        category_id=category_id,
        name=name or f"class{category_id}",
        frequency=frequency,
        train_images=train_images,
        gt_images=min(objects, 3),
        gt_instances=objects,
        AP=ap,
        AP50=ap + 10,
        AR=ap + 5,
    )


def calibration(group, *bins, error=NAN):
    """Build a reliability curve from ``(detections, mean score, precision)`` of its bins."""
    detections, scores, precision = zip(*bins, strict=True) if bins else ([], [], [])
    return ReliabilityCurve(group, list(detections), list(scores), list(precision), error)


def analysis(categories, confusions=(), calibrations=(), *, task="bbox", metrics=None, truth="a1"):
    """Build an analysis from categories, ``(true, predicted, objects)`` and calibrations."""
    return LongTailAnalysis(
        task=task,
        ground_truth=truth,
        images=1234,
        detections=56789,
        metrics=dict.fromkeys(METRICS, NAN) | means(categories) | (metrics or {}),
        categories=list(categories),
        confusions=[Confusion(*c) for c in confusions],
        calibration=list(calibrations),
    )


def means(categories):
    groups = {"": "rcf", "r": "r", "c": "c", "f": "f"}
    scores = {}
    for name, of in groups.items():
        known = [c.AP for c in categories if c.frequency in of and not math.isnan(c.AP)]
        scores[f"AP{name}"] = sum(known) / len(known) if known else NAN
    return scores | group_counts(categories)


def lvis_like(number=1203, *, seed=0, tail=0.0, task="segm"):
    """Build an analysis with LVIS's profile; a higher ``tail`` improves rare categories."""
    rng, noise = np.random.default_rng(0), np.random.default_rng(seed)
    counts = LVIS_V1_PROFILE.image_counts(number, 100_170)
    objects = np.maximum(0, rng.lognormal(np.log(counts * 0.3 + 1), 1).astype(int) - 1)
    strength = np.clip(np.log10(counts) / 4 + tail * (1 - np.log10(counts) / 4), 0, 1)
    rows, confusions = [], []
    for index, (count, total) in enumerate(zip(counts.tolist(), objects.tolist(), strict=True)):
        spread = 15 + 40 / (1 + total)
        ap = float(np.clip(55 * strength[index] + noise.normal(0, spread), 0, 95))
        name = f"category_{index} (like an object of some kind)" if index % 97 == 0 else None
        rows.append(
            category(
                index + 1,
                frequency_group(count),
                count,
                ap if total else NAN,
                objects=total,
                name=name or f"category_{index}",
            )
        )
        chances = np.array([0.75 * strength[index], 0.5 * (1 - strength[index]), 0.2])
        right, wrong, missed = noise.multinomial(total, chances / chances.sum()).tolist()
        others = (index * noise.beta(1.5, 1.2, size=wrong)).astype(int) // 12 * 12 + 1
        ids, numbers = np.unique(others, return_counts=True)
        pairs = [(index + 1, right), *zip(ids.tolist(), numbers.tolist(), strict=True)]
        confusions += [(index + 1, i, n) for i, n in pairs if n and i != index + 1]
        confusions += [(index + 1, index + 1, right)] * bool(right)
        confusions += [(index + 1, None, missed)] * bool(missed)
    small = {name: 20 + 10 * tail + i for i, name in enumerate(METRICS[1:6])}
    return analysis(rows, confusions, _calibrations(noise, tail), task=task, metrics=small)


def _calibrations(noise, tail):
    found = []
    for group, power in {"all": 1.3, "r": 2.2 - tail, "c": 1.6 - tail / 2, "f": 1.1}.items():
        scale = {"all": 3e5, "r": 2e3, "c": 5e4, "f": 2.48e5}[group]
        numbers = [int(scale * 10 ** (-i / 3)) for i in range(15)]
        scores = [(i + 0.45) / 15 if n else NAN for i, n in enumerate(numbers)]
        precision = [float(np.clip(s**power + noise.normal(0, 0.02), 0, 1)) for s in scores]
        bins = zip(numbers, scores, precision, strict=True)
        gaps = [n * abs(s - p) for n, s, p in bins if n]
        error = 100 * sum(gaps) / sum(numbers)
        found.append(ReliabilityCurve(group, numbers, scores, precision, error))
    return found
