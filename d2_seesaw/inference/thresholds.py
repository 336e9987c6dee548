"""Score thresholds of a predictor: one for all classes, or those that an evaluation selected.

The scores of all detections are counted, which says what other thresholds would give.

Shapes in this module:
    C: classes
    N: detections
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_seesaw.evaluation.analysis.operating_points import ThresholdRule
from d2_seesaw.evaluation.analysis.threshold_analysis import TaskThresholds
from d2_seesaw.evaluation.analysis.threshold_file import read_thresholds
from d2_seesaw.evaluation.analysis.thresholds import ALL, OWN
from d2_seesaw.inference.tta import MultiViewInference

_BINS = 1000
_THRESHOLDS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreThresholds:
    """Lowest score to keep of each class.

    Attributes:
        values: ``(C,)`` thresholds.
        rule: The rule that selected them, as text.
        of_masks: Whether they apply to ``mask_scores``, where detections have them.
        sha256: Hash of the checkpoint that they belong to; None if they were not read from a file.
    """

    values: Tensor
    rule: str
    of_masks: bool = False
    sha256: str | None = None

    @classmethod
    def uniform(cls, value: float, num_classes: int) -> ScoreThresholds:
        """Return one threshold for all classes."""
        return cls(torch.full((num_classes,), value, dtype=torch.float64), f"{value:g}")

    def select(self, instances: Instances) -> Instances:
        """Return the detections with at least the threshold of their class."""
        scores = instances.scores
        if self.of_masks and instances.has("mask_scores"):
            scores = instances.mask_scores
        values = self.values.to(scores)  # compared in the precision of the scores
        return instances[scores >= values[instances.pred_classes]]


def load_thresholds(
    rule: ThresholdRule,
    checkpoint: str | Path,
    metadata: Mapping[str, Any],
    *,
    masks: bool,
    tta: bool,
) -> ScoreThresholds:
    """Return the thresholds of a rule, from the file beside the checkpoint where it needs one.

    Classes are found by their names. A class that the evaluated split lacks gets the threshold of
    all categories.

    Args:
        rule: Selects the thresholds.
        checkpoint: The checkpoint.
        metadata: ``class_names`` of the model.
        masks: Whether the model predicts masks, so that thresholds for masks are preferred.
        tta: Whether test-time augmentation is used.

    Raises:
        ValueError: there is no such file, it belongs to another checkpoint, no class of the model
            is in it, or no detection was right in the evaluation.
    """
    names = list(metadata["class_names"])
    if rule.kind == "score":
        return ScoreThresholds.uniform(rule.target, len(names))
    split = read_thresholds(checkpoint, tta=tta)
    task = "segm" if masks and "segm" in split.tasks else "bbox"
    if task not in split.tasks:
        raise ValueError(f"the thresholds of {checkpoint} are for masks, the model has none")
    of_task = split.tasks[task]
    values, origins, short = _values_by_name(of_task, rule)
    if not any(name in values for name in names):
        raise ValueError(
            f"no class of the model ({', '.join(names[:3])} ...) is in the thresholds of "
            f"{split.dataset} ({', '.join(of_task.names[:3])} ...)"
        )
    default = of_task.pools[ALL].select(rule)
    if default is None:
        raise ValueError(
            f"no detection in {split.dataset} was right, so {checkpoint} has no score thresholds"
        )
    everything = float(of_task.pools[ALL].thresholds[default[0]])
    chosen = [values.get(name, everything) for name in names]
    unknown = [name for name in names if name not in values]
    logger.info(
        "Thresholds %s from %s (%s): %s",
        *(rule, split.dataset, task, _summary(chosen, origins, unknown, names, short)),
    )
    return ScoreThresholds(
        torch.tensor(chosen, dtype=torch.float64), str(rule), task == "segm", split.sha256
    )


def _values_by_name(
    thresholds: TaskThresholds, rule: ThresholdRule
) -> tuple[dict[str, float], dict[str, str], set[str]]:
    """Return values and origins by class name, and the classes that miss the target."""
    found = thresholds.select(rule)
    names = thresholds.names
    return (
        dict(zip(names, found.values.tolist(), strict=True)),
        dict(zip(names, found.origins, strict=True)),
        {name for name, reached in zip(names, found.reached, strict=True) if not reached},
    )


def _summary(
    chosen: Sequence[float],
    origins: Mapping[str, str],
    unknown: Sequence[str],
    names: Sequence[str],
    short: set[str],
) -> str:
    counts = Counter(origins[name] for name in names if name in origins)
    of_group = sum(number for origin, number in counts.items() if origin not in (OWN, ALL))
    parts = {
        "the class itself": counts[OWN],
        "its frequency group": of_group,
        "all classes": counts[ALL] + len(unknown),
    }
    texts = [f"{name} for {number}" for name, number in parts.items() if number]
    text = f"{min(chosen):.3f} to {max(chosen):.3f}, chosen on {', '.join(texts)}"
    if unknown:
        text += f"; {len(unknown)} classes are not in the split"
    missed = sum(name in short for name in names)
    return f"{text}; {missed} classes do not reach the target" if missed else text


def lower_score_limits(model: nn.Module, threshold: float) -> None:
    """Lower the score thresholds inside a model that would drop scores of ``threshold`` or more.

    Args:
        model: A detector, or its test-time augmentation.
        threshold: The lowest threshold of the classes.
    """
    # Models keep scores that are larger than their threshold.
    below = max(0.0, float(np.nextafter(np.float32(threshold), np.float32(-1))))
    for part, name in _limits(model):
        limit = getattr(part, name, None)
        if limit is not None and limit > below:
            setattr(part, name, below)


def _limits(model: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(model, MultiViewInference):
        yield model.merge, "score_threshold"
        model = model.model
    predictors = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        yield predictor, "test_score_thresh"


class ScoreCounts:
    """Numbers of detections by score, from which other thresholds follow.

    Attributes:
        highest: highest score; None without detections.
    """

    def __init__(self) -> None:
        self.highest: float | None = None
        self._counts = np.zeros(_BINS + 1, np.int64)

    def add(self, scores: np.ndarray) -> None:
        """Count the scores, in [0, 1], of an image."""
        if len(scores):
            self.highest = max(self.highest or 0.0, float(scores.max()))
            # Scores are float32, in which a threshold such as 0.3 is a little larger.
            bins = np.floor(scores.astype(np.float64) * _BINS + 1e-4).astype(int)
            self._counts += np.bincount(bins.clip(0, _BINS), minlength=_BINS + 1)

    def advice(self, threshold: float | str, passed: int = 0) -> str:
        """Return how many detections pass, also at lower thresholds, and the highest score.

        Args:
            threshold: One threshold for all classes, or the rule that selected one of each class.
            passed: Number of detections that pass. It is given, because the scores are counted in
                steps of 1/1000, to which a threshold need not belong.
        """
        if self.highest is None:
            return "The model found nothing, at any threshold"
        above = self._counts[::-1].cumsum()[::-1]
        rest = f"{passed:,} of {above[0]:,}, the highest score is {self.highest:.3f}"
        if isinstance(threshold, str):
            return f"Detections that reach the threshold of their class ({threshold}): {rest}"
        lower = [t for t in _THRESHOLDS if t < min(threshold, self.highest + 1 / _BINS)]
        others = [f"{t:g} gives {above[round(t * _BINS)]:,}" for t in lower]
        text = f"Detections with a score of at least {threshold:g}: {rest}"
        return f"{text}; --threshold {', '.join(others)}" if others else text
