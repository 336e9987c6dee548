"""One task of an evaluation: scores by either engine, and the numbers of the long-tail report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from d2_seesaw.evaluation.analysis import LongTailAnalysis
from d2_seesaw.evaluation.analysis.calibration import calibrations
from d2_seesaw.evaluation.analysis.confusion import confusion_examples
from d2_seesaw.evaluation.analysis.object_confusion import object_confusions, object_names
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.lvis_scores import LVISScores
from d2_seesaw.evaluation.lvis.metrics import MatchedDetections, match_detections, scores_of_matches
from d2_seesaw.evaluation.lvis.official import evaluate_detections
from d2_seesaw.evaluation.predictions.detections import DetectionColumns
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.tables import CategoryResult

if TYPE_CHECKING:
    from lvis import LVIS


@dataclass(frozen=True)
class TaskEvaluation:
    """Detections of one task. Scores and analysis share what they both need.

    Attributes:
        ground_truth: The annotations, with all that the LVIS format asks for.
        columns: The same as arrays.
        detections: Of its images.
        task: "bbox" or "segm".
        official: Whether the scores are those of the ``lvis`` package.
        limits: Detections that count.
        class_agnostic: Whether a detection may match an object of any category.
    """

    ground_truth: LVIS
    columns: GroundTruthColumns
    detections: DetectionColumns
    task: str
    official: bool
    limits: DetectionLimits
    class_agnostic: bool

    @cached_property
    def _matched(self) -> MatchedDetections:
        return match_detections(
            self.columns,
            self.detections,
            self.task,
            limits=self.limits,
            class_agnostic=self.class_agnostic,
        )

    def scores(self) -> LVISScores:
        """The metrics, and the scores of the categories."""
        if not self.official:
            return scores_of_matches(
                self.columns, self._matched, class_agnostic=self.class_agnostic
            )
        detections = self.detections
        if self.limits.per_category is not None:
            detections = detections.take(self.limits.rows(detections, self.task))
        return evaluate_detections(
            self.ground_truth,
            list(detections.results()),
            self.task,
            max_dets_per_image=self.limits.per_image,
            class_agnostic=self.class_agnostic,
        )

    def analysis(
        self, metrics: dict[str, float], categories: list[CategoryResult]
    ) -> LongTailAnalysis:
        """What the scores do not show. The categories must be told apart.

        Args:
            metrics: In percent, with the counts of groups.
            categories: One row each, in order of the id.
        """
        names = object_names(self.columns, self.detections, self.task, limits=self.limits)
        analysis = LongTailAnalysis(
            task=self.task,
            ground_truth=self.columns.fingerprint(),
            images=len(self.columns.image_ids),
            detections=len(self.detections),
            metrics=metrics,
            categories=categories,
            confusions=object_confusions(self.columns, names),
            calibration=calibrations(self.columns, self._matched),
        )
        return replace(
            analysis, examples=confusion_examples(analysis, self.columns, self.detections, names)
        )
