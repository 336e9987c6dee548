r"""Fitting of the parameters of a calibration.

Exponents (NorCal, logit adjustment, tau-norm) are chosen from a grid by the AP of boxes. One
temperature for each frequency group minimizes the negative log-likelihood of labeled RoIs:

- ``"background"``: :math:`-\log p'_y` over all RoIs, with background as a class;
- ``"foreground"``: :math:`-\log (p'_y / o)` over the foreground RoIs, because objectness o does not
  change;
- ``"objectness"``: binary cross-entropy of :math:`p'_c / o` over the foreground RoIs and the
  classes that were looked for in the image;
- ``"independent"``: binary cross-entropy of :math:`p'_c` over all RoIs and these classes.

Shapes in this module:
    R: labeled RoIs
    C: foreground classes
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2_seesaw.data.frequency import frequency_group
from d2_seesaw.evaluation import Detections, LVISScoring
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.tables import format_score, text_table
from d2_seesaw.inference.calibration.collecting import (
    CandidateDetections,
    LabeledScores,
    labeled_scores,
    views_of_split,
)
from d2_seesaw.inference.calibration.splits import FittingSplit, ground_truth_of
from d2_seesaw.layers.calibration import GROUPS, PARAMETERS, Calibration, log_odds

GRID = tuple(step / 10 for step in range(11))
"""Default candidates of an exponent."""

MAX_ROIS = 20_000
"""Default number of labeled RoIs that temperatures are fitted on."""

_SHOWN = ("AP", "APr", "APc", "APf")
_LARGEST_LOG_TEMPERATURE = math.log(10)
_LARGEST_ODDS = 100.0
_FEW_ROIS = 10


@dataclass(frozen=True)
class Fit:
    """A fitted calibration.

    Attributes:
        calibration: the best candidate.
        report: text that says what was fitted, on what and by which criterion.
    """

    calibration: Calibration
    report: str


def groups_of(image_counts: Sequence[int] | np.ndarray) -> str:
    """Return the letter of the frequency group of each class, from its training images."""
    return "".join(frequency_group(int(count)) for count in image_counts)


def fit_calibration(
    model: Any,
    template: Calibration,
    split: FittingSplit,
    mapper: Callable[[dict[str, Any]], Any],
    image_counts: np.ndarray,
    *,
    grid: Sequence[float] = GRID,
    max_rois: int = MAX_ROIS,
    num_workers: int = 0,
) -> Fit:
    """Fit the parameters of a calibration in one pass over the images.

    Args:
        model: detector in evaluation mode, without calibration.
        template: the calibration; its parameters are replaced.
        split: images to fit on.
        mapper: mapper of the test data, which only resizes.
        image_counts: ``(C,)`` training images of each class, for the frequency groups.
        grid: candidates of an exponent; 0, no calibration, is always one of them.
        max_rois: limit of the number of RoIs that temperatures are fitted on.
        num_workers: loading processes.

    Raises:
        ValueError: no object can be scored, or no labeled RoI is foreground.
        BadImageError: an image cannot be read.
    """
    views = views_of_split(model, split, mapper, num_workers)
    if template.method == "temperature":
        limit = max(16, max_rois // len(split.records))
        parts = [labeled_scores(model, view, max_rois=limit, seed=split.seed) for view in views]
        fit = fit_temperatures(LabeledScores.cat(parts), template)
    else:
        collector = CandidateDetections(model, candidates_of(template, grid))
        for view in views:
            collector.add(view)
        truth = ground_truth_of(split, template.num_classes, image_counts)
        fit = fit_exponent(collector.candidates, collector.detections(), truth)
    calibration = replace(fit.calibration, origin=f"fitted on {split}")
    return Fit(calibration, f"fitted on {split}\n{fit.report}")


def candidates_of(template: Calibration, grid: Sequence[float]) -> list[Calibration]:
    """Return the calibration with each exponent of the grid and with 0, ascending."""
    (name,) = PARAMETERS[template.method]
    values = sorted({0.0, *map(float, grid)})
    return [replace(template, parameters={name: value}) for value in values]


def fit_exponent(
    candidates: Sequence[Calibration],
    detections: Sequence[Detections],
    ground_truth: GroundTruthColumns,
) -> Fit:
    """Choose the candidate with the highest AP of boxes; the smallest exponent among equals.

    Raises:
        ValueError: no object can be scored.
    """
    scoring = LVISScoring()
    metrics = [scoring.score_task(ground_truth, found, "bbox").metrics for found in detections]
    ap = [scores["AP"] for scores in metrics]
    if any(math.isnan(value) for value in ap):
        raise ValueError("no object of the images to fit on can be scored")
    exponents = [abs(next(iter(c.parameters.values()))) for c in candidates]
    best = min(range(len(ap)), key=lambda i: (-ap[i], exponents[i]))
    name = next(iter(candidates[0].parameters))
    rows = [
        [f"{c.parameters[name]:g}", *(format_score(m[s]) for s in _SHOWN), "<" if i == best else ""]
        for i, (c, m) in enumerate(zip(candidates, metrics, strict=True))
    ]
    report = f"criterion: AP of boxes\n{text_table([name, *_SHOWN, 'best'], rows)}"
    return Fit(candidates[best], report)


def fit_temperatures(rois: LabeledScores, template: Calibration) -> Fit:
    """Minimize the negative log-likelihood over one temperature for each frequency group.

    Temperatures are in (0.1, 10). A group without a labeled RoI keeps 1, because nothing bounds it.

    Raises:
        ValueError: no labeled RoI is foreground.
    """
    C = template.num_classes
    foreground = rois.labels[rois.labels < C]
    if not len(foreground):
        raise ValueError("no RoI of the images to fit on is labeled as an object")
    groups = torch.tensor([list(GROUPS).index(g) for g in template.groups])
    seen = torch.bincount(groups[foreground], minlength=len(GROUPS))
    likelihood = _Likelihood(rois, template.structure)
    free = torch.zeros(len(GROUPS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")

    def temperatures() -> Tensor:
        bounded = _LARGEST_LOG_TEMPERATURE * (free / _LARGEST_LOG_TEMPERATURE).tanh()
        return torch.where(seen > 0, bounded, 0.0).exp()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = likelihood(1 / temperatures()[groups])
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    fitted = temperatures().detach()
    before, after = likelihood(torch.ones(C)).item(), likelihood(1 / fitted[groups]).item()
    values = dict(zip(GROUPS.values(), fitted.tolist(), strict=True))
    rows = [
        [name, f"{template.groups.count(letter)}", f"{number}", f"{values[name]:.4f}"]
        for (letter, name), number in zip(GROUPS.items(), seen.tolist(), strict=True)
    ]
    table = text_table(["group", "classes", "labeled RoIs", "temperature"], rows)
    report = (
        f"criterion: negative log-likelihood of {len(rois.labels)} RoIs, {len(foreground)} of them "
        f"objects: {before:.4f} without calibration, {after:.4f} with it\n{table}"
    )
    present = [n for n in GROUPS if n in template.groups]
    found = dict(zip(GROUPS, seen.tolist(), strict=True))
    warnings = [_doubt(GROUPS[letter], values[GROUPS[letter]], found[letter]) for letter in present]
    return Fit(replace(template, parameters=values), "\n".join([report, *filter(None, warnings)]))


def _doubt(group: str, temperature: float, rois: int) -> str:
    """Return one line on what makes a fitted temperature doubtful; empty if nothing does."""
    reasons = []
    if rois < _FEW_ROIS:
        reasons.append(f"only {rois} labeled RoIs of objects decide it")
    if abs(math.log(temperature)) > 0.95 * _LARGEST_LOG_TEMPERATURE:
        reasons.append("it is at or near the bound of its range, 0.1 to 10")
    if not reasons:
        return ""
    return f"warning: the temperature of {group} classes is doubtful: {' and '.join(reasons)}"


class _Likelihood:
    """Mean negative log-likelihood of labeled RoIs as a function of the inverse temperatures."""

    def __init__(self, rois: LabeledScores, structure: str) -> None:
        C = rois.scores.shape[1] - 1
        of_objects = structure in ("foreground", "objectness")
        kept = rois.labels < C if of_objects else rois.labels >= 0
        self.labels = rois.labels[kept]
        odds = log_odds(rois.scores[kept].double(), structure)
        # Infinite odds have no gradient.
        self.odds = odds.clamp(-_LARGEST_ODDS, _LARGEST_ODDS)
        self.known = rois.known[kept]
        self.structure = structure

    def __call__(self, slopes: Tensor) -> Tensor:
        """Return the scalar for ``(C,)`` inverse temperatures."""
        odds = self.odds * slopes
        if self.structure == "background":
            odds = torch.cat([odds, torch.zeros_like(odds[:, :1])], dim=1)
        if self.structure in ("background", "foreground"):
            return F.cross_entropy(odds, self.labels)
        truth = F.one_hot(self.labels, odds.shape[1] + 1)[:, :-1].to(odds.dtype)
        terms = F.binary_cross_entropy_with_logits(odds, truth, reduction="none")
        return (terms * self.known).sum() / len(odds)
