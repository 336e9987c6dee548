"""Comparison of an exported model with the model that it comes from.

Shapes in this module:
    D: detections
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Outputs = dict[str, Tensor]
"""Outputs of a model by name, see :data:`d2_seesaw.inference.export.OUTPUTS`."""

TOLERANCES = {"boxes": 0.05, "scores": 1e-3, "masks": 1e-2, "label maps": 1e-3}
"""Largest accepted differences: pixels, shares of a score, probabilities, scores of pixels."""

_ROUNDING = 1e-6
"""Absolute difference of scores below which they are equal."""

_UNMATCHED = 0.01
"""Largest accepted share of detections without a counterpart."""


class ExportError(ValueError):
    """Error for a model that cannot be exported, or whose export computes something else."""


@dataclass(frozen=True)
class Comparison:
    """Differences of an exported model from the model, over several images.

    Attributes:
        images: Number of images.
        detections: Number of detections of the model; 0 for label maps.
        matched: Those with an exported one of the same class, box and score.
        unmatched: Detections of one of both without one in the other, except where the lowest score
            or the largest number of detections may have cut it off.
        differences: Largest absolute difference of each kind in :data:`TOLERANCES`.
    """

    images: int
    detections: int
    matched: int
    unmatched: int
    differences: dict[str, float]

    def check(self) -> None:
        """Check the export.

        Raises:
            ExportError: it differs, or the images have no detections, so that nothing is known.
        """
        if not self.detections and "label maps" not in self.differences:
            raise ExportError(
                f"the model finds nothing in the {self.images} images, so that the export cannot "
                "be checked: give images with objects that it knows"
            )
        wrong = {k: v for k, v in self.differences.items() if not v <= TOLERANCES[k]}
        # Rounding may change which of two boxes with an IoU at the threshold of NMS is kept.
        too_many = self.unmatched > _UNMATCHED * self.detections
        nothing = self.detections and not self.matched
        if too_many or nothing or wrong:
            raise ExportError(f"the exported model differs from the model: {self.text()}")

    def text(self) -> str:
        """Return the comparison in one line."""
        parts = [f"{self.matched} of {self.detections} detections equal"]
        if "label maps" in self.differences:
            parts = []
        parts += [f"{name} within {value:.1e}" for name, value in self.differences.items()]
        return f"{self.images} images: {', '.join(parts)}"


def compare(
    model: Callable[[Tensor], Outputs],
    exported: Callable[[Tensor], Outputs],
    images: Sequence[Tensor],
) -> Comparison:
    """Compare an exported model with the model on images.

    Detections are matched by class, box and score, because equal scores may change places.

    Raises:
        ExportError: the exported model fails, or has other outputs.
    """
    detections = matched = unmatched = 0
    limits: tuple[float, int | None] = getattr(model, "limits", (0.0, None))
    differences: dict[str, float] = {}
    for image in images:
        with torch.no_grad():
            expected = model(image)
        try:
            found = exported(image)
        except Exception as error:  # the runtimes raise errors of their own
            raise ExportError(
                f"the exported model fails on an image of {tuple(image.shape)}: {first_line(error)}"
            ) from error
        _check_shapes(found, expected)
        if "sem_seg" in expected:
            _update(differences, "label maps", found["sem_seg"], expected["sem_seg"])
            continue
        pairs, left_over = _matched(expected, found, *limits)
        detections += len(expected["scores"])
        matched += len(pairs.expected)
        unmatched += left_over
        for name, kind in _KINDS.items():
            if name in expected:
                a, b = found[name][pairs.found], expected[name][pairs.expected]
                if kind == "scores":
                    a, b = a / b.clamp(min=_ROUNDING), b / b.clamp(min=_ROUNDING)
                _update(differences, kind, a, b)
    return Comparison(len(images), detections, matched, unmatched, differences)


_KINDS = {"pred_boxes": "boxes", "scores": "scores", "mask_scores": "scores", "pred_masks": "masks"}


class _Pairs(NamedTuple):
    expected: Tensor
    found: Tensor


def _matched(
    expected: Outputs, found: Outputs, threshold: float, limit: int | None
) -> tuple[_Pairs, int]:
    """Match detections of the same class, box and score; also return how many are left over.

    Args:
        expected: outputs of the model.
        found: outputs of the exported model.
        threshold: lowest score of a detection.
        limit: largest number of detections; None for any number.
    """
    tolerance = TOLERANCES["scores"]
    distance = torch.cdist(expected["pred_boxes"], found["pred_boxes"], p=torch.inf)
    other_class = expected["pred_classes"][:, None] != found["pred_classes"]
    scores = expected["scores"][:, None]
    apart = (scores - found["scores"]).abs() > tolerance * scores + _ROUNDING
    distance[other_class | apart] = torch.inf
    pairs = []
    taken = torch.zeros(len(found["scores"]), dtype=torch.bool)
    for row, distances in enumerate(distance):
        distances = distances.masked_fill(taken, torch.inf)
        if len(distances) and distances.min() <= 1.0:
            column = int(distances.argmin())
            taken[column] = True
            pairs.append((row, column))
    rows, columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    left_over = 0
    for outputs, kept in ((expected, rows), (found, columns)):
        scores = outputs["scores"]
        is_left = torch.ones(len(scores), dtype=torch.bool).index_fill(0, kept, False)
        cut = threshold
        if limit is not None and len(scores) >= limit:
            cut = max(cut, float(scores.min()))
        is_left &= scores > cut * (1 + tolerance) + _ROUNDING
        left_over += int(is_left.sum())
    return _Pairs(rows, columns), left_over


def _check_shapes(found: Outputs, expected: Outputs) -> None:
    """Check names and shapes; the number of detections may differ."""
    given, needed = (
        {n: tuple(x.shape) if n == "sem_seg" else ("D", *x.shape[1:]) for n, x in outputs.items()}
        for outputs in (found, expected)
    )
    if given != needed or len({len(x) for x in found.values()}) > 1:
        raise ExportError(f"the exported model has outputs of {given}, not {needed}")


def _update(differences: dict[str, float], kind: str, a: Tensor, b: Tensor) -> None:
    if a.numel():
        both = [float((a.double() - b.double()).abs().max()), differences.get(kind, 0.0)]
        differences[kind] = math.nan if any(map(math.isnan, both)) else max(both)


def first_line(error: BaseException) -> str:
    """Return the first line of a message that has text; the exporter adds the whole graph."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
