"""Files of results, with what ``d2-seesaw predict`` wrote about them in ``images.json``.

Prediction numbers its images itself, and leaves out detections below a threshold. Its record in
``images.json`` says so, so that neither the ids nor the scores are taken for those of an
evaluation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.entries import ImageSize
from d2_seesaw.evaluation.predictions.files import RESULTS, read_results
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.predicted_images import (
    category_targets,
    image_sizes,
    read_images,
    with_categories_of,
    with_ids_of,
)
from d2_seesaw.evaluation.predictions.score_origin import KnownOrigin, ScoreOrigin
from d2_seesaw.utils.files import write_text

PREDICTED_RESULTS, PREDICTED_IMAGES = "results.json", "images.json"
"""Files of ``d2-seesaw predict``."""

NO_LOSS = 1e-4
"""Highest threshold at which AP counts as complete: the usual one of LVIS."""

HIGHEST_THRESHOLD = 0.05
"""Highest threshold at which results are scored, with a warning: Detectron2's, usual for COCO."""

_KEY = "d2_seesaw_predict"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionRecord:
    """Record of a prediction: which results it belongs to, and which detections they lack.

    It is in the ``info`` of ``images.json``, which stays a file of COCO's format.

    Attributes:
        results_bytes: Size of the results file.
        threshold: The threshold of the scores, or the rule that selected one for each class; None
            for label maps, which have no scores.
        lowest_threshold: Lowest threshold of a class.
        highest_threshold: Highest threshold of a class.
        max_detections: Limit of detections per image; None without one.
        scores: Origin of the scores; unknown in records of earlier versions.
    """

    results_bytes: int = 0
    threshold: str | None = None
    lowest_threshold: float = 0.0
    highest_threshold: float = 0.0
    max_detections: int | None = None
    scores: ScoreOrigin = field(default_factory=ScoreOrigin)

    def to_info(self) -> dict[str, Any]:
        """Return the ``info`` of ``images.json``."""
        return {"description": "images of d2-seesaw predict", _KEY: asdict(self)}

    @classmethod
    def of_images(
        cls, content: Mapping[str, Any], images_file: str | PathLike[str]
    ) -> PredictionRecord | None:
        """Return the record in the content of an ``images.json``; None if it has none.

        Raises:
            ValueError: the record has another form.
        """
        info = content.get("info")
        if not isinstance(info, Mapping) or _KEY not in info:
            return None
        try:
            return msgspec.convert(info[_KEY], cls)
        except msgspec.MsgspecError as error:
            raise ValueError(
                f"{_KEY!r} in the info of {images_file} is damaged: {error}"
            ) from error


@dataclass(frozen=True)
class ResultsFile:
    """File of results, and the ``images.json`` of the prediction that made it.

    Attributes:
        path: The results.
        images: Their ``images.json``; None if the image ids are those of the annotations.
        record: The record in it; None if it was written by an earlier version.
        was_given: Whether the user named ``images``.
    """

    path: Path
    images: Path | None = None
    record: PredictionRecord | None = None
    was_given: bool = False

    @classmethod
    def find(
        cls, results: str | PathLike[str], predicted_images: str | PathLike[str] | None = None
    ) -> ResultsFile:
        """Return the results with their ``images.json``, which is given or found beside them.

        Prediction numbers its images itself. The ids of its results are therefore never taken for
        those of the annotations while its ``images.json`` is in the same folder. The files of an
        evaluation (``RESULTS``) have the ids of the annotations, whatever is beside them.

        Args:
            results: The file of results.
            predicted_images: Their ``images.json``. By default it is the one in the same folder, if
                ``d2-seesaw predict`` wrote it with these results. An ``images.json`` of another
                origin is not used, with a warning.

        Raises:
            ValueError: ``predicted_images`` has another format; or prediction wrote the
                ``images.json`` in the same folder, but not with these results.
            OSError: a file cannot be read.
        """
        path = Path(results)
        beside = path.with_name(PREDICTED_IMAGES)
        if predicted_images is not None:
            images = Path(predicted_images)
            record = PredictionRecord.of_images(read_images(images), images)
            return cls(path, images, record, was_given=True)
        if path.name in RESULTS or not beside.is_file():
            return cls(path)
        try:
            content = read_images(beside)
        except ValueError:
            content = {}
        record = PredictionRecord.of_images(content, beside)
        if record is None and not _is_of_earlier_prediction(content):
            logger.warning(
                f"Image ids of {path} are taken for those of the annotations. If they are those of "
                f"{beside}, give it as --predicted-images"
            )
            return cls(path)
        belongs = path.name == PREDICTED_RESULTS
        if record is not None:
            belongs = record.results_bytes == path.stat().st_size
        if not belongs:
            raise ValueError(
                f"{path} is not the file that d2-seesaw predict wrote with {beside} beside it, so "
                f"that its image ids are not known: if they are those of {beside}, give "
                f"--predicted-images {beside} to d2-seesaw evaluate, draw or calibrate; if they "
                f"are those of the annotations, move {path} to another folder"
            )
        logger.info(
            f"Images of {path} are matched with the annotations by file name, because {beside} "
            "beside it is from d2-seesaw predict"
        )
        return cls(path, beside, record)

    def read(self, image_size: ImageSize | None = None) -> Detections:
        """Read the detections, with the ids of the file.

        Args:
            image_size: Height and width of an annotated image by its id, for masks that are
                polygons. The sizes of a prediction are those in its ``images.json``.

        Raises:
            ValueError: see ``read_results``.
        """
        images = self.images
        if images is not None:
            image_size = image_sizes(lambda: read_images(images)["images"])
        return read_results(self.path, image_size=image_size)

    def with_ids_of(self, detections: Detections, table: AnnotationTable) -> Detections:
        """Replace the ids of a prediction by those of the annotations.

        Images are matched by file name, see
        :func:`~d2_seesaw.evaluation.predictions.predicted_images.with_ids_of`, and categories by
        name. Other results keep their ids.

        Raises:
            ValueError: an image with detections is not exactly one of the annotated images, or the
                names of the categories do not fit.
        """
        if self.images is None:
            return detections
        try:
            found = with_ids_of(detections, self.images, table.images)
            return with_categories_of(found, self.images, table.categories)
        except ValueError as error:
            if self.was_given:
                raise
            raise ValueError(
                f"{error}. {self.images} says which images {self.path} has; if the ids of "
                f"{self.path} are those of the annotations, move it to another folder"
            ) from error

    def classes(self, table: AnnotationTable) -> dict[Any, int]:
        """Return the position in ``table.categories`` of each category id of the results.

        Categories of a prediction are matched by name; those that the table lacks are left out.

        Raises:
            ValueError: the names of the categories do not fit.
        """
        if self.images is not None:
            targets = category_targets(self.images, table.categories)
            if targets is not None:
                return {own: place for own, place in targets.items() if place is not None}
        return {category["id"]: place for place, category in enumerate(table.categories)}

    def origin(self) -> KnownOrigin | None:
        """Return the origin of the scores; None if it is not known.

        Raises:
            ValueError: the record of an evaluation is damaged.
        """
        if self.images is None:
            return KnownOrigin.of_evaluation(self.path)
        if self.record is None:
            return None
        return KnownOrigin(self.path, self.record.scores, str(self.images))

    def copy_images(self, results: Path) -> None:
        """Write ``images.json`` beside calibrated results of the same images, with their record.

        Nothing is written for results with the ids of the annotations, or in the same folder.

        Args:
            results: The calibrated results, which exist.
        """
        target = self.images_beside(results)
        if self.images is None or target is None:
            return
        content = read_images(self.images)
        if self.record is not None:
            scores = replace(self.record.scores, changed=True)
            record = replace(self.record, results_bytes=results.stat().st_size, scores=scores)
            content = {**content, "info": {**content["info"], **record.to_info()}}
        write_text(target, json.dumps(content, indent=1))

    def images_beside(self, results: Path) -> Path | None:
        """Return the file that ``copy_images`` writes for other results; None if there is none."""
        target = results.with_name(PREDICTED_IMAGES)
        if self.images is None or target.resolve() == self.images.resolve():
            return None
        return target

    def check_complete(self, limits: DetectionLimits) -> None:
        """Refuse results without the detections that AP and score thresholds need.

        A threshold of more than ``NO_LOSS`` and at most ``HIGHEST_THRESHOLD`` is a warning.

        Args:
            limits: Detections that are to be scored.

        Raises:
            ValueError: the threshold of a class was higher, or an image has fewer detections than
                ``limits`` allow.
        """
        record = self.record
        if record is None:
            return
        if record.highest_threshold > HIGHEST_THRESHOLD:
            raise ValueError(
                f"{self.path} lacks {self._left_out(record)}: AP would be too low, and score "
                "thresholds too high. Predict again with d2-seesaw predict --threshold 0"
            )
        most = record.max_detections
        if most is not None and (limits.per_image is None or most < limits.per_image):
            wanted = "AP-fixed has no such limit" if limits.per_image is None else (
                f"{limits.per_image} are to be scored"
            )  # fmt: skip
            also = "" if limits.per_image is None else f", or give --max-dets-per-image {most}"
            raise ValueError(
                f"{self.path} has at most {most} detections per image, says {self.images}, but "
                f"{wanted}. Predict again without --max-detections{also}"
            )
        if record.highest_threshold > NO_LOSS:
            logger.warning(
                f"{self.path} lacks {self._left_out(record)}: AP of rare categories can be too "
                "low. d2-seesaw predict --threshold 0 keeps all detections"
            )

    def _left_out(self, record: PredictionRecord) -> str:
        low, high = record.lowest_threshold, record.highest_threshold
        of_classes = f"{record.threshold}, {low:g} to {high:g}"
        text = f"{high:g}" if low == high else f"the threshold of their class ({of_classes})"
        return f"the detections with a score below {text}, says {self.images}"


def _is_of_earlier_prediction(content: Mapping[str, Any]) -> bool:
    """Return whether ``images.json`` has the form that prediction wrote without a record."""
    keys = {"id", "file_name", "height", "width"}
    return (
        content.keys() == {"images", "categories", "annotations"}
        and content["annotations"] == []
        and all(
            image["id"] == number and image.keys() - {"frame"} == keys
            for number, image in enumerate(content["images"], 1)
        )
    )
