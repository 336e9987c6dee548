"""What an evaluation says about the long tail, beyond its metrics: as data, and as a JSON file.

A report is drawn from it, of one run or of two side by side, without scoring anything again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from detectron2.utils.file_io import PathManager

from d2_seesaw.evaluation.tables import CategoryResult
from d2_seesaw.utils.files import write_text

_VERSION = 1


@dataclass(frozen=True)
class Confusion:
    """Objects of one category that the model takes for the same thing.

    Attributes:
        category_id: What the objects are.
        predicted_id: Category of the detection with the highest score that lies on them; None if no
            detection does.
        objects: How many there are.
    """

    category_id: int
    predicted_id: int | None
    objects: int


@dataclass(frozen=True)
class ConfusionExample:
    """One object that the model takes for something else, or misses, to be looked at.

    Attributes:
        category_id: What the object is.
        predicted_id: What the model takes it for; None if nothing lies on it.
        image_id: Of the annotations, a number or a text.
        box: Left, top, width and height of the object in pixels.
        predicted_box: The same of the detection that names it, or None.
        score: Of that detection, or None.
    """

    category_id: int
    predicted_id: int | None
    image_id: int | str
    box: list[float]
    predicted_box: list[float] | None
    score: float | None


@dataclass(frozen=True)
class ReliabilityCurve:
    """How often detections are right, by their score.

    The bins part [0, 1] into equal intervals, closed on the right.

    Attributes:
        group: "r", "c" or "f" of the predicted categories, or "all".
        detections: Of each bin.
        mean_score: Of each bin, in [0, 1]; ``nan`` in an empty one.
        precision: Of each bin, the share that finds an object of its category at IoU 0.5.
        error: Expected calibration error in percent: the mean over all detections of the distance
            between the precision and the mean score of their bin (Guo et al. 2017,
            https://arxiv.org/abs/1706.04599). ``nan`` without detections; and all bins are empty
            where scores are not in [0, 1].
    """

    group: str
    detections: list[int]
    mean_score: list[float]
    precision: list[float]
    error: float


@dataclass(frozen=True)
class LongTailAnalysis:
    """One task of one evaluation.

    Attributes:
        task: "bbox" or "segm".
        ground_truth: Names the annotations by their content: analyses with the same one compare.
        images: Of the evaluated split.
        detections: That the model made, before any limit.
        metrics: In percent, ``nan`` where there is no ground truth; with the counts of groups.
        categories: One row each, in order of the id.
        confusions: Every kind of outcome that some object had, those that are right included.
        calibration: Of all detections and of those of each group.
        examples: Some of the objects that ``confusions`` counts; none in files of earlier versions.
    """

    task: str
    ground_truth: str
    images: int
    detections: int
    metrics: dict[str, float]
    categories: list[CategoryResult]
    confusions: list[Confusion]
    calibration: list[ReliabilityCurve]
    examples: list[ConfusionExample] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with None for ``nan``."""
        return cast("dict[str, Any]", _without_nan({"version": _VERSION, **asdict(self)}))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LongTailAnalysis:
        """The inverse of ``to_json``.

        Raises:
            ValueError: the data are something else, or of another version.
        """
        if not isinstance(data, Mapping) or data.get("version") != _VERSION:
            raise ValueError(f"expected the analysis of an evaluation, of version {_VERSION}")
        try:
            return cls(
                task=data["task"],
                ground_truth=data["ground_truth"],
                images=data["images"],
                detections=data["detections"],
                metrics={k: _number(v) for k, v in data["metrics"].items()},
                categories=[
                    CategoryResult(**{**c, **{k: _number(c[k]) for k in ("AP", "AP50", "AR")}})
                    for c in data["categories"]
                ],
                confusions=[Confusion(**c) for c in data["confusions"]],
                calibration=[_reliability_curve(c) for c in data["calibration"]],
                examples=[ConfusionExample(**e) for e in data.get("examples", [])],
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the analysis of an evaluation is damaged: {error!r}") from error


def analysis_path(folder: str | os.PathLike[str], task: str) -> str:
    """The file of a task in the folder of an evaluation."""
    return os.path.join(folder, f"longtail_{task}.json")


def write_analysis(folder: str | os.PathLike[str], analysis: LongTailAnalysis) -> None:
    """Write ``longtail_<task>.json``."""
    text = json.dumps(analysis.to_json(), indent=1, allow_nan=False)
    write_text(analysis_path(folder, analysis.task), text)


def read_analysis(path: str | os.PathLike[str]) -> LongTailAnalysis:
    """Read a file of ``write_analysis``.

    Raises:
        ValueError: it is something else.
    """
    with cast("Any", PathManager.open(str(path))) as file:
        try:
            return LongTailAnalysis.from_json(json.load(file))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _reliability_curve(data: Mapping[str, Any]) -> ReliabilityCurve:
    return ReliabilityCurve(
        group=data["group"],
        detections=data["detections"],
        mean_score=[_number(v) for v in data["mean_score"]],
        precision=[_number(v) for v in data["precision"]],
        error=_number(data["error"]),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
