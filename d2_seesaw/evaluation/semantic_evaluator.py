"""Semantic segmentation metrics with separate scores for rare, common and frequent classes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils.file_io import PathManager

from d2_seesaw.data.class_names import compare_names
from d2_seesaw.data.frequency import check_group_bounds, check_pixel_counts
from d2_seesaw.data.image_files import open_image
from d2_seesaw.evaluation.earlier_files import remove_files
from d2_seesaw.evaluation.semantic_scores import (
    ClassResult,
    boundary_confusion_matrix,
    boundary_metrics,
    class_results,
    confusion_matrix,
    group_metrics,
    most_pixels_first,
    segmentation_scores,
)
from d2_seesaw.evaluation.tables import (
    SEGMENTATION_METRICS,
    format_score,
    group_counts_text,
    row_table,
    text_table,
    write_category_results,
    write_metrics,
)
from d2_seesaw.utils.ranks import raise_on_all_ranks

TASK = "sem_seg"
_LONGEST_LOGGED_TABLE = 30

LabelReader = Callable[[dict[str, Any]], np.ndarray]


class LongTailSemSegEvaluator(SemSegEvaluator):
    """Detectron2's ``SemSegEvaluator`` with separate scores for rare, common and frequent classes.

    ``evaluate`` returns ``{"sem_seg": {metric: percent}}`` with Detectron2's metrics: mIoU, fwIoU,
    mACC (the mean recall of the classes), pACC, and for each class IoU-name and ACC-name (its
    recall). In addition to the base class:

    - For each group g of r, c and f there are mIoUg and mACCg, and the counts ``evaluated-g`` and
      ``categories-g`` of its classes. Pixels decide the groups, see ``group_bounds``.
    - A class or group without a ground-truth pixel scores ``nan``, shown as n/a.
    - ``per_category_sem_seg.csv`` and ``.json`` in ``output_dir`` hold the IoU, recall and
      precision of every class, ``metrics_sem_seg.json`` the metrics.
    - Boundary IoU uses the boundary region of each class, and has a mean. Detectron2 subtracts
      label numbers from each other, so pixels of one class count for another.
    - Labels, predictions and images that do not fit the dataset raise an error where they appear.

    Args:
        dataset_name: A registered dataset whose records have ``file_name`` and
            ``sem_seg_file_name``, with ``stuff_classes`` and ``ignore_label`` in its metadata.
        distributed: Whether to sum the counts of all ranks; all ranks must construct the evaluator.
        output_dir: Folder for all files; nothing is written if None.
        read_labels: Function that returns the ``(H, W)`` labels of a record: classes, or the ignore
            label. By default they are the values of the image in ``sem_seg_file_name``.
        pixel_counts: Pixels of each class in the training split, or a function without arguments
            that returns them; the main process calls it in its first ``evaluate``. By default the
            pixels of the evaluated split decide the groups.
        group_bounds: Minimum shares of all pixels of a common and of a frequent class. By default
            a class is frequent from the share ``1 / C`` on, and rare below a tenth of that.
        boundary_iou: Whether to compute Boundary IoU as well.
        save_predictions: Whether to write all predictions to ``sem_seg_predictions.json``, and the
            results to ``sem_seg_evaluation.pth``, as Detectron2 does.

    Raises:
        ValueError: the dataset or an option is invalid; raised on all ranks.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        read_labels: LabelReader | None = None,
        pixel_counts: Sequence[int] | np.ndarray | Callable[[], Any] | None = None,
        group_bounds: Sequence[float] | None = None,
        boundary_iou: bool = False,
        save_predictions: bool = False,
    ) -> None:
        with raise_on_all_ranks(distributed):
            records = DatasetCatalog.get(dataset_name)
            _check_dataset(dataset_name, records, labels_are_classes=read_labels is None)
            super().__init__(dataset_name, distributed, output_dir if save_predictions else None)
            self._bounds = check_group_bounds(group_bounds, self._num_classes)
            if pixel_counts is not None and not callable(pixel_counts):
                pixel_counts = check_pixel_counts(pixel_counts, self._num_classes)
            if save_predictions and not output_dir:
                raise ValueError("save_predictions needs an output_dir to write them to")
        self._records = {record["file_name"]: record for record in records}
        self._read_labels = read_labels or _labels_in_file
        self._pixel_counts = pixel_counts
        self._folder = output_dir
        self._with_boundaries = boundary_iou
        self._compute_boundary_iou = False  # the implementation of the base class
        self._save_predictions = save_predictions
        self.reset()

    def set_class_names(self, names: Sequence[str], source: str = "the model") -> None:
        """Check that the classes of the model are those of the dataset, in the same order.

        Args:
            names: Names of the model's classes, in their order.
            source: Source of the names, for messages.

        Raises:
            ValueError: they are not. Label maps are not mapped.
        """
        own = MetadataCatalog.get(self._dataset_name).stuff_classes
        target = f"dataset {self._dataset_name!r}"
        mapping = compare_names(names, own, source=source, target=target)
        if mapping.message:
            raise ValueError(
                f"{mapping.message}, which is not possible for label maps: number the classes of "
                "both splits alike"
            )

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch of images.

        Args:
            inputs: One dict per image, with its "file_name".
            outputs: One dict per image, with "sem_seg": ``(C, H, W)`` logits.

        Raises:
            ValueError: an image is not in the dataset, or its labels or logits do not fit it.
        """
        for image, output in zip(inputs, outputs, strict=True):
            name = image["file_name"]
            labels = self._labels(name)
            logits = output["sem_seg"]
            if tuple(logits.shape) != (self._num_classes, *labels.shape):
                raise ValueError(
                    f"{name}: the prediction must have shape "
                    f"{(self._num_classes, *labels.shape)}, the classes of {self._dataset_name!r} "
                    f"and the size of its labels, got {tuple(logits.shape)}"
                )
            predicted = logits.argmax(dim=0).cpu().numpy()
            self._conf_matrix += confusion_matrix(predicted, labels, self._num_classes)
            if self._with_boundaries:
                self._b_conf_matrix += boundary_confusion_matrix(
                    predicted, labels, self._num_classes
                )
            if self._save_predictions:
                self._predictions.extend(self.encode_json_sem_seg(predicted, name))

    def _labels(self, file_name: str) -> np.ndarray:
        """Return ``(H, W)`` classes; ignored pixels are C."""
        if file_name not in self._records:
            raise ValueError(
                f"{file_name} is not in {self._dataset_name!r}, whose files start as "
                f"{list(self._records)[:3]}: do loader and evaluator name one dataset?"
            )
        labels = self._read_labels(self._records[file_name]).astype(np.int64)
        if labels.ndim != 2:
            raise ValueError(
                f"Labels of {file_name} must have shape (H, W), one class per pixel, got "
                f"{labels.shape}"
            )
        ignored = labels == self._ignore_label
        unknown = labels[~ignored & ((labels < 0) | (labels >= self._num_classes))]
        if len(unknown):
            raise ValueError(
                f"Labels of {file_name} must lie in [0, {self._num_classes - 1}] or be "
                f"{self._ignore_label}, got {unknown[0]}"
            )
        return np.where(ignored, self._num_classes, labels)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Return the metrics on the main process, and an empty result on the others."""
        with np.errstate(invalid="ignore"):  # without ground truth the base class divides 0 by 0
            results = super().evaluate()
        if results is None:
            return OrderedDict()
        rows = self._class_results()
        seen = any(row.gt_pixels for row in rows)
        metrics = {k: float(v) if seen else math.nan for k, v in results[TASK].items()}
        metrics |= group_metrics(rows)
        if self._with_boundaries:
            metrics |= boundary_metrics(rows)
        self._report(metrics, rows)
        return OrderedDict({TASK: metrics})

    def _class_results(self) -> list[ClassResult]:
        if callable(self._pixel_counts):
            self._pixel_counts = check_pixel_counts(self._pixel_counts(), self._num_classes)
        scores = segmentation_scores(self._conf_matrix, self._b_conf_matrix)
        return class_results(self._class_names, scores, self._pixel_counts, self._bounds)

    def _report(self, metrics: dict[str, float], rows: list[ClassResult]) -> None:
        shown = [m for m in SEGMENTATION_METRICS if m in metrics]
        table = text_table(shown, [[format_score(metrics[m]) for m in shown]])
        counts = group_counts_text(metrics)
        self._logger.info(f"Results for {TASK}:\n{table}\nCategories with ground truth: {counts}")
        if len(rows) <= _LONGEST_LOGGED_TABLE:
            self._logger.info(f"Scores of each class:\n{row_table(most_pixels_first(rows))}")
        if self._folder:
            PathManager.mkdirs(self._folder)
            if not self._save_predictions:  # what is there belongs to an earlier evaluation
                remove_files(self._folder, ("sem_seg_predictions.json", "sem_seg_evaluation.pth"))
            write_category_results(rows, self._folder, TASK)
            write_metrics(metrics, self._folder, TASK)


def _labels_in_file(record: dict[str, Any]) -> np.ndarray:
    # Detectron2's own function fails with NumPy 2 (as of April 2024).
    with open_image(PathManager.get_local_path(record["sem_seg_file_name"])) as image:
        return np.asarray(image)


def _check_dataset(name: str, records: list[dict[str, Any]], *, labels_are_classes: bool) -> None:
    metadata = MetadataCatalog.get(name)
    lacking = [key for key in ("stuff_classes", "ignore_label") if metadata.get(key) is None]
    if lacking:
        raise ValueError(f"The metadata of {name!r} must have {' and '.join(lacking)}")
    for record in records:
        if "sem_seg_file_name" not in record:
            raise ValueError(f"{record['file_name']} of {name!r} has no sem_seg_file_name")
        if labels_are_classes and record.get("sem_seg_label_ids") is not None:
            raise ValueError(
                f"The files of {name!r} hold label ids, not classes (sem_seg_label_ids): pass the "
                "function that converts them as read_labels"
            )
