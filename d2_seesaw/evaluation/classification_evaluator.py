"""Evaluation of image classifiers on long-tailed data."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from d2_seesaw.data.class_names import compare_names
from d2_seesaw.evaluation.classification_scores import (
    SHOT_GROUPS,
    accuracy_metrics,
    class_accuracies,
)
from d2_seesaw.evaluation.tables import (
    CLASSIFICATION_METRICS,
    format_score,
    group_counts_text,
    row_table,
    text_table,
    write_category_results,
    write_metrics,
)
from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.ranks import raise_on_all_ranks

TASK = "classification"
_LONGEST_LOGGED_TABLE = 30

logger = logging.getLogger(__name__)


class LongTailClassificationEvaluator(DatasetEvaluator):
    """Accuracy over all images, and over classes with many, medium and few training images.

    ``evaluate`` returns ``{"classification": {metric: percent}}``, see
    :func:`~d2_seesaw.evaluation.classification_scores.accuracy_metrics`. ``output_dir`` receives
    ``metrics_classification.json``, ``per_category_classification.csv`` and ``.json`` with the
    accuracy of each class, and ``classification_predictions.json`` with the file, label, predicted
    class and score of each image.

    Args:
        dataset_name: a dataset of :func:`~d2_seesaw.data.register_image_list`. The training images
            of its classes decide the groups.
        distributed: collect the predictions of all ranks; all ranks must then construct the
            evaluator.
        output_dir: folder for all files; nothing is written if None.

    Raises:
        ValueError: the dataset is not registered, or is not for classification.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, output_dir: str | None = None
    ) -> None:
        with raise_on_all_ranks(distributed):
            if dataset_name not in DatasetCatalog.list():
                raise ValueError(f"dataset {dataset_name!r} is not registered")
            metadata = MetadataCatalog.get(dataset_name)
            if metadata.get("evaluator_type") != TASK:
                raise ValueError(
                    f"dataset {dataset_name!r} is not for classification: register it with "
                    "register_image_list"
                )
            self._class_names = [str(name) for name in metadata.thing_classes]
            self._train_images = [c["image_count"] for c in metadata.class_image_count]
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._folder = output_dir
        self.reset()

    def set_class_names(self, names: Sequence[str], source: str = "the model") -> None:
        """Check that the classes of the model are those of the dataset, in the same order.

        Args:
            names: names of the model's classes, in their order.
            source: source of the names, for messages.

        Raises:
            ValueError: they are not. Labels are not mapped.
        """
        target = f"dataset {self._dataset_name!r}"
        mapping = compare_names(names, self._class_names, source=source, target=target)
        if mapping.message:
            raise ValueError(
                f"{mapping.message}, which is not possible for labels: number the classes of both "
                "splits alike"
            )

    def reset(self) -> None:
        """Forget the predictions."""
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of a batch of images.

        Args:
            inputs: one dict per image, with its "image_id", "file_name" and "label".
            outputs: one dict per image, with "scores": ``(C,)`` probabilities.

        Raises:
            ValueError: the number of scores is not that of the classes.
        """
        for image, output in zip(inputs, outputs, strict=True):
            scores = output["scores"].cpu()
            if tuple(scores.shape) != (len(self._class_names),):
                raise ValueError(
                    f"{image['file_name']}: expected scores of the {len(self._class_names)} "
                    f"classes of {self._dataset_name!r}, got shape {tuple(scores.shape)}"
                )
            score, predicted = scores.max(dim=0)
            self._predictions.append(
                {
                    "image_id": image["image_id"],
                    "file_name": image["file_name"],
                    "label": int(image["label"]),
                    "predicted": int(predicted),
                    "score": float(score),
                }
            )

    def evaluate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> OrderedDict[str, dict[str, float]]:
        """Return the metrics on the main process, and an empty result on the others.

        Raises:
            ValueError: no image was evaluated.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            gathered: Any = comm.gather(predictions, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            predictions = list(itertools.chain.from_iterable(gathered))
        if not predictions:
            raise ValueError(f"no image of {self._dataset_name!r} was evaluated")
        predictions.sort(key=lambda found: found["image_id"])
        predicted, labels = (np.array([p[k] for p in predictions]) for k in ("predicted", "label"))
        rows = class_accuracies(predicted, labels, self._class_names, self._train_images)
        metrics = accuracy_metrics(predicted, labels, rows)
        table = text_table(
            CLASSIFICATION_METRICS, [[format_score(metrics[m]) for m in CLASSIFICATION_METRICS]]
        )
        counts = group_counts_text(metrics, SHOT_GROUPS)
        logger.info("Results for %s:\n%s\nClasses with images: %s", TASK, table, counts)
        if len(rows) <= _LONGEST_LOGGED_TABLE:
            ordered = sorted(rows, key=lambda row: -row.train_images)
            logger.info("Accuracy of each class:\n%s", row_table(ordered))
        if self._folder:
            PathManager.mkdirs(self._folder)
            write_category_results(rows, self._folder, TASK)
            write_metrics(metrics, self._folder, TASK)
            path = os.path.join(self._folder, f"{TASK}_predictions.json")
            write_text(path, json.dumps(predictions))
        return OrderedDict({TASK: metrics})
