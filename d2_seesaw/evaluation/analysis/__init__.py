"""Long-tail analysis of an evaluation, beyond its metrics, as data and as a JSON file.

Reports on one run or on two runs are drawn from it; nothing has to be scored again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, cast

import msgspec
from detectron2.utils.file_io import PathManager

from d2_seesaw.evaluation.tables import CATEGORY_SCORES, CategoryResult, Column, columns_of
from d2_seesaw.utils.files import write_text

_VERSION = 1


@dataclass(frozen=True)
class Confusion:
    """Number of objects of one category that received the same predicted label.

    Attributes:
        category_id: Annotated category of the objects.
        predicted_id: Category of the highest-scoring detection that overlaps them; None if there is
            no such detection.
        objects: Number of objects.
    """

    category_id: int
    predicted_id: int | None
    objects: int


@dataclass(frozen=True)
class ConfusionExample:
    """One object that received a wrong label or was missed.

    Attributes:
        category_id: Annotated category of the object.
        predicted_id: Category of the highest-scoring detection that overlaps it, or None.
        image_id: Id in the annotation file, a number or text.
        box: Left, top, width and height of the object in pixels.
        predicted_box: The box of that detection in the same form, or None.
        score: The score of that detection, or None.
    """

    category_id: int
    predicted_id: int | None
    image_id: int | str
    box: list[float]
    predicted_box: list[float] | None
    score: float | None


@dataclass(frozen=True)
class ReliabilityCurve:
    """Precision of detections by their score.

    The bins divide [0, 1] into equal intervals, closed on the right. If scores are not in [0, 1],
    all bins are empty.

    Attributes:
        group: Group of the predicted categories, "r", "c" or "f", or "all".
        detections: Number of detections in each bin.
        mean_score: Mean score in each bin, in [0, 1]; ``nan`` in an empty bin.
        precision: Share of the detections in each bin that find an object of their category at IoU
            0.5; ``nan`` in an empty bin.
        error: Expected calibration error in percent: the mean over all detections of the distance
            between the precision and the mean score of their bin (Guo et al. 2017,
            https://arxiv.org/abs/1706.04599). ``nan`` without detections.
    """

    group: str
    detections: list[int]
    mean_score: list[float]
    precision: list[float]
    error: float


@dataclass(frozen=True)
class CategoryThreshold:
    """Score thresholds of one category. Numbers are counted at the threshold with the best F1.

    Percentages are ``nan`` without objects or detections. A threshold for a wanted precision or
    recall is ``nan`` if no threshold reaches it.

    Attributes:
        category_id: The id in the annotation file.
        name: The name of the category.
        frequency: "r", "c" or "f", or "n/a" if unknown.
        objects: Number of objects that count.
        threshold: Lowest score to keep, ``nan`` if no detection of any category is right.
        chosen_on: Set on which it was chosen: "own" for the category, "r", "c" or "f" for its
            frequency group, "all" for all categories.
        detections: Number of detections that count and are kept.
        precision: In percent.
        recall: In percent.
        F1: In percent, on the data on which the threshold was chosen.
        F1_cross_fitted: In percent, at thresholds chosen on other images.
        F1_at_half: In percent, at a threshold of 0.5.
        threshold_for_precision: The one with the highest recall at a precision of at least 90 %.
        recall_there: Its recall in percent.
        threshold_for_recall: The one with the highest precision at a recall of at least 80 %.
        precision_there: Its precision in percent.
    """

    category_id: Annotated[int, Column("id", "text", logged=False)]
    name: Annotated[str, Column("category", "text")]
    frequency: Annotated[str, Column("group", "group")]
    objects: Annotated[int, Column("objects", "count")]
    threshold: Annotated[float, Column("threshold", "threshold")]
    chosen_on: Annotated[str, Column("chosen on", "text")]
    detections: Annotated[int, Column("detections", "count")]
    precision: Annotated[float, Column("precision", "score")]
    recall: Annotated[float, Column("recall", "score")]
    F1: Annotated[float, Column("F1", "score")]
    F1_cross_fitted: Annotated[float, Column("F1, cross-fitted", "score")]
    F1_at_half: Annotated[float, Column("F1 at 0.5", "score")]
    threshold_for_precision: Annotated[float, Column("threshold, precision 90 %", "threshold")]
    recall_there: Annotated[float, Column("recall there", "score")]
    threshold_for_recall: Annotated[float, Column("threshold, recall 80 %", "threshold")]
    precision_there: Annotated[float, Column("precision there", "score")]


@dataclass(frozen=True)
class ThresholdSummary:
    """Means over the categories of a group that have objects, in percent.

    Attributes:
        rule: Rule that selects the threshold of each category, such as "best-f1"; "0.5" is one
            threshold for all.
        group: "r", "c" or "f", or "all".
        categories: Number of categories with objects.
        precision: Cross-fitted, over the categories with detections.
        recall: Cross-fitted.
        F1: Cross-fitted.
        F1_in_sample: On the data on which the thresholds were chosen, which is too high.
    """

    rule: str
    group: str
    categories: int
    precision: float
    recall: float
    F1: float
    F1_in_sample: float


@dataclass(frozen=True)
class ThresholdAnalysis:
    """Score thresholds of all categories, and how well they work.

    Attributes:
        folds: Number of parts of the images for cross-fitting.
        fewest_objects: Objects that a category needs for a threshold of its own.
        categories: One row per category, in order of the id.
        summaries: Means by rule and group.
    """

    folds: int
    fewest_objects: int
    categories: list[CategoryThreshold]
    summaries: list[ThresholdSummary]


@dataclass(frozen=True)
class ConfusionMatrix:
    """Confusions of the detections that the thresholds with the best F1 keep.

    Attributes:
        confusions: Numbers of objects by category and predicted label, correct labels included.
        background: Pairs of a category and a number of detections that are false and overlap no
            object of any category.
    """

    confusions: list[Confusion]
    background: list[tuple[int, int]]


@dataclass(frozen=True)
class LongTailAnalysis:
    """Analysis of one task of one evaluation.

    Attributes:
        task: "bbox" or "segm".
        ground_truth: Fingerprint of the annotations. Only analyses with equal ones can be compared.
        images: Number of images in the evaluated split.
        detections: Number of detections of the model, before any limit.
        metrics: In percent, ``nan`` without ground truth; with the counts of the groups.
        categories: One row per category, in order of the id.
        confusions: Numbers of objects by category and predicted label, correct labels included.
        calibration: Curves of all detections and of each group.
        examples: Some of the objects with a wrong label or none.
        thresholds: Score thresholds; None in files of earlier versions.
        matrix: Confusion matrix at these thresholds; None in files of earlier versions.
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
    thresholds: ThresholdAnalysis | None = None
    matrix: ConfusionMatrix | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON-serializable data, with None for ``nan``."""
        return {"version": _VERSION, **_plain(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LongTailAnalysis:
        """Restore an analysis from the result of ``to_json``.

        Raises:
            ValueError: the data are not an analysis of this version.
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
                    CategoryResult(**{**c, **{k: _number(c[k]) for k in CATEGORY_SCORES}})
                    for c in data["categories"]
                ],
                confusions=[Confusion(**c) for c in data["confusions"]],
                calibration=[_reliability_curve(c) for c in data["calibration"]],
                examples=[ConfusionExample(**e) for e in data["examples"]],
                thresholds=_thresholds(data.get("thresholds")),
                matrix=_matrix(data.get("matrix")),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the analysis of an evaluation is damaged: {error!r}") from error


def analysis_path(folder: str | os.PathLike[str], task: str) -> str:
    """Return the path of a task's analysis in the folder of an evaluation."""
    return os.path.join(folder, f"longtail_{task}.json")


def write_analysis(folder: str | os.PathLike[str], analysis: LongTailAnalysis) -> None:
    """Write ``longtail_<task>.json``."""
    text = json.dumps(analysis.to_json(), allow_nan=False)
    # json indents in Python, which takes four times as long.
    write_text(analysis_path(folder, analysis.task), msgspec.json.format(text, indent=1))


def read_analysis(path: str | os.PathLike[str]) -> LongTailAnalysis:
    """Read a file that ``write_analysis`` wrote.

    Raises:
        ValueError: the file is not such an analysis.
    """
    with cast("Any", PathManager.open(str(path))) as file:
        try:
            return LongTailAnalysis.from_json(json.load(file))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def check_annotations(
    analysis: LongTailAnalysis, path: str | os.PathLike[str], fingerprint: str
) -> None:
    """Refuse annotations other than those of an evaluation.

    Args:
        analysis: Analysis beside the detections of the evaluation.
        path: Its file, for the message.
        fingerprint: Fingerprint of the given annotations.

    Raises:
        ValueError: the fingerprints differ.
    """
    if analysis.ground_truth != fingerprint:
        raise ValueError(
            f"{os.fspath(path)} was written for other annotations ({analysis.ground_truth}) than "
            f"the given ones ({fingerprint}): give the annotations of the evaluation"
        )


def _reliability_curve(data: Mapping[str, Any]) -> ReliabilityCurve:
    return ReliabilityCurve(
        group=data["group"],
        detections=data["detections"],
        mean_score=[_number(v) for v in data["mean_score"]],
        precision=[_number(v) for v in data["precision"]],
        error=_number(data["error"]),
    )


def _thresholds(data: Mapping[str, Any] | None) -> ThresholdAnalysis | None:
    if data is None:
        return None
    numbers = [
        name
        for name, column in columns_of(CategoryThreshold).items()
        if column.kind in ("score", "threshold")
    ]
    means = ("precision", "recall", "F1", "F1_in_sample")
    return ThresholdAnalysis(
        folds=data["folds"],
        fewest_objects=data["fewest_objects"],
        categories=[
            CategoryThreshold(**{**row, **{name: _number(row[name]) for name in numbers}})
            for row in data["categories"]
        ],
        summaries=[
            ThresholdSummary(**{**row, **{name: _number(row[name]) for name in means}})
            for row in data["summaries"]
        ],
    )


def _matrix(data: Mapping[str, Any] | None) -> ConfusionMatrix | None:
    if data is None:
        return None
    confusions = [Confusion(**c) for c in data["confusions"]]
    return ConfusionMatrix(confusions, [(i, number) for i, number in data["background"]])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """Return JSON-serializable data, with None for ``nan``, of dataclasses in lists and dicts.

    ``dataclasses.asdict`` would copy every value as well.
    """
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
