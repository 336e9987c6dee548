"""LVIS metrics of a Detectron2 model, with the long tail made visible."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation.lvis_evaluation import LVISEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from d2_seesaw.data.class_names import NameMapping, compare_names
from d2_seesaw.data.rle.kernels import compiled_functions
from d2_seesaw.evaluation.analysis.threshold_file import SplitThresholds
from d2_seesaw.evaluation.earlier_files import remove_files, remove_scores
from d2_seesaw.evaluation.lvis.annotations import (
    TrainImageCounts,
    annotation_file,
    category_of_class,
    read_evaluation_table,
    registered_train_images,
)
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.official import lvis_from_table
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.detections import Detections, in_classes_of
from d2_seesaw.evaluation.predictions.files import MASK_RESULTS, save_columns, write_results
from d2_seesaw.evaluation.predictions.gather import (
    DetectionLog,
    ProposalColumns,
    ProposalLog,
    all_gather_json,
    gather_columns,
    gather_detections,
)
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.score_origin import ORIGIN, ScoreOrigin
from d2_seesaw.evaluation.predictions.validation import check_numbers
from d2_seesaw.evaluation.scoring import LVISScoring, ReportWriter, check_tasks
from d2_seesaw.utils.memory import release_free_memory
from d2_seesaw.utils.ranks import raise_on_all_ranks

if TYPE_CHECKING:
    from lvis import LVIS

_LVIS_LIMIT = 300
_SHOWN_NAMES = 3
_MASKS_PER_IMAGE = 100  # of a model that may return 300, to estimate the work


class LongTailLVISEvaluator(LVISEvaluator):
    """Detectron2's ``LVISEvaluator`` for data of the size of LVIS, with long-tail results.

    Beyond its base class:

    - Annotations are read once, by the reader of the training data and from its kept copy.
    - Predictions are kept, gathered and saved as arrays, and scored without a loop over all pairs
      of images and categories: in seconds, and with the numbers of the official package.
    - Annotations may be in COCO's format too, with any category ids. Every category then counts as
      verified in every image. See ``complete_coco_fields`` for crowds and frequency groups.
    - A dataset or installation that cannot be evaluated is refused on construction, on all ranks.
    - A metric without ground truth is ``nan``, shown as ``n/a``, instead of -100.
    - A model without any prediction scores 0 instead of ``nan``.
    - Masks are ranked, and limited in number, by ``mask_scores`` if the model has them.
      ``lvis_instances_results.json`` then has the score of the box as "score", and "mask_score".
      ``lvis_instances_results_segm.json`` is for evaluating masks with other tools: its "score" is
      the score of the mask.
    - ``per_category_<task>.csv`` and ``.json`` in ``output_dir`` hold AP, AP50 and recall of every
      category. ``instances_predictions.npz`` holds all predictions, with category ids of the file.
    - ``thresholds_<task>.csv`` and ``.json`` hold the score thresholds of every category, and
      ``confusion_<task>.csv`` the confusion matrix at the thresholds with the best F1.
    - ``longtail_<task>.json`` holds a ``LongTailAnalysis``: confusions, calibration and examples.
      ``report`` draws ``longtail.html`` from them, with pictures if the metadata have the
      ``image_root``. So does ``d2-seesaw report`` at any later time.

    Files that an earlier evaluation left in ``output_dir`` are removed, also of tasks that this one
    lacks.

    ``thresholds`` are the score thresholds of the last evaluation on the main process, which
    ``write_thresholds`` writes beside a checkpoint; None without ``output_dir``.

    ``origin``, if it is set, is written to ``instances_origin.json`` beside the predictions.

    ``evaluate`` returns ``{task: {metric: percent}}`` with Detectron2's nine metrics, and for each
    group g of r, c and f how many categories were ``evaluated-g`` of all ``categories-g``.

    Args:
        dataset_name: A registered dataset with a ``json_file`` in the format of LVIS or COCO.
        tasks: Any of "bbox" and "segm"; by default those that the predictions allow.
        distributed: Whether to gather predictions from all ranks; then all ranks construct it.
        output_dir: Folder for everything it writes; nothing is written if None.
        max_dets_per_image: Detections that count per image; LVIS's own limit is 300.
        engine: "sparse", or "lvis" for the official package, which at LVIS's size takes about ten
            minutes and 17 GB or more per task, while "sparse" takes seconds. They differ for an
            annotation with id 0, which the package never counts as found.
        fixed_ap: Whether to measure AP-fixed (Dave et al. 2021): 10,000 detections of each category
            over all images count, and no limit per image. The model's own limit per image should
            then be far above 300. Other detections are dropped, also from the files.
        class_agnostic: Whether a detection may match an object of any category. There are then no
            groups and no scores of categories.
        train_image_counts: Training images by category id, or the path of the training annotations
            in which to count them; they decide the frequency groups. By default the annotations
            do, or the metadata's ``class_image_count`` where these have no groups.
        class_names: Names of the model's classes, in their order; by default those of the dataset.
            See ``set_class_names``.
        any_scores: Whether scores may be outside of [0, 1]; they must be finite in any case.
        encode_on_device: Whether masks on boxes are encoded on the device of the model instead of
            the CPU, with the same result. Not yet run on a GPU.
        report: Function that writes ``longtail.html`` into ``output_dir``, usually
            ``d2_seesaw.report.write_evaluation_report``; no report is written if None.
    """

    takes_roi_masks = True
    """Models may leave masks on their boxes: Detectron2's ``ROIMasks`` as ``pred_masks``."""

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = _LVIS_LIMIT,
        engine: str = "sparse",
        fixed_ap: bool = False,
        class_agnostic: bool = False,
        train_image_counts: TrainImageCounts | None = None,
        class_names: Sequence[str] | None = None,
        any_scores: bool = False,
        encode_on_device: bool = False,
        report: ReportWriter | None = None,
    ) -> None:
        # The constructor of LVISEvaluator would parse the annotations again, with lvis.
        self._logger = logging.getLogger(__name__)
        self._tasks = tuple(tasks) if tasks else None
        self._distributed, self._output_dir = distributed, output_dir
        self._max_dets_per_image = max_dets_per_image
        self._cpu_device = torch.device("cpu")
        with raise_on_all_ranks(distributed):
            check_tasks(tasks)
            limits = _limits(max_dets_per_image, fixed_ap)
            self._scoring = LVISScoring(engine, limits, class_agnostic, any_scores)
            self._scoring.probe()
            json_file = annotation_file(dataset_name)
            self._name, self._metadata = dataset_name, MetadataCatalog.get(dataset_name)
            self._train_images = registered_train_images(dataset_name)
            table = read_evaluation_table(
                json_file,
                train_image_counts=train_image_counts,
                registered_counts=self._train_images,
                with_masks="segm" in (self._tasks or ()),
            )
            self._ground_truth = GroundTruthColumns.from_table(table)
            self._image_ids = set(self._ground_truth.image_ids.tolist())
            if "segm" in (self._tasks or TASKS):
                compiled_functions(_MASKS_PER_IMAGE * len(self._image_ids))
            self._category_ids = self._category_id_of_class()
            self._classes: NameMapping | None = None
            if class_names is not None:
                self.set_class_names(class_names)
            self._do_evaluation = len(table.image) > 0
            if engine == "lvis" and (table.annotation_id == 0).any():
                self._logger.warning(
                    f"{json_file} has an annotation with id 0, which lvis counts as never found. "
                    "engine='sparse' does not."
                )
        self._report = report
        self._encode_on_device = encode_on_device
        self.origin: ScoreOrigin | None = None
        self.reset()

    @cached_property
    def _lvis_api(self) -> LVIS:
        """The annotations as the base class needs them to evaluate box proposals."""
        return lvis_from_table(self._ground_truth.table)

    def _category_id_of_class(self) -> dict[int, int]:
        ids = self._ground_truth.category_ids.tolist()
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None and self._ground_truth.exhaustive.all():
            # Detectron2's rule for COCO, which sets the mapping only once the data are loaded.
            mapping = {category_id: index for index, category_id in enumerate(ids)}
        num_classes = len(self._metadata.get("thing_classes") or [])
        return category_of_class(ids, mapping, num_classes or None)

    def set_class_names(self, names: Sequence[str], source: str = "the model") -> None:
        """Map the classes of the model to those of the dataset, by name.

        Predictions of classes that the dataset lacks are dropped, and a warning counts them.

        Args:
            names: Names of the model's classes, in their order.
            source: Source of the names, for messages.

        Raises:
            ValueError: the dataset has names that the model lacks.
        """
        own = self._class_names()
        if own is None:
            return
        mapping = compare_names(names, own, source=source, target=f"dataset {self._name!r}")
        mapping.log()
        self._classes = mapping if mapping.message else None

    def _class_names(self) -> list[str] | None:
        """Return the names of the classes of the dataset, None if it has only ids."""
        if names := self._metadata.get("thing_classes"):
            return list(names)
        names = {c["id"]: c["name"] for c in self._ground_truth.table.categories}
        if all(name == str(id_) for id_, name in names.items()):
            return None
        ids = [id_ for _, id_ in sorted(self._category_ids.items())]
        return [names.get(id_, str(id_)) for id_ in ids]

    def reset(self) -> None:
        """Forget all predictions."""
        super().reset()
        self._found = self._new_log()
        self._proposals = ProposalLog()
        self._num_images = self._num_dropped = 0
        self._saw_masks = False
        self.thresholds: SplitThresholds | None = None

    def _new_log(self) -> DetectionLog:
        return DetectionLog(per_category=self._scoring.limits.per_category)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect predictions, and refuse at once any that could not be evaluated.

        Args:
            inputs: One dict per image, with its "image_id".
            outputs: One dict per image, with its "instances", "proposals" or both.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                instances = output["instances"]
                if not self._encode_on_device:
                    instances = instances.to(self._cpu_device)
                self._check_prediction(image["image_id"], instances)
                if self._classes is not None:
                    number, targets = len(instances), self._classes.targets
                    instances = in_classes_of(instances, targets)
                    self._num_dropped += number - len(instances)
                found = Detections.from_instances(
                    instances,
                    image["image_id"],
                    self._category_ids,
                    encode_on_device=self._encode_on_device,
                )
                check_numbers(found, any_scores=self._scoring.any_scores)
                self._found.append(found)
                self._num_images += 1
            if "proposals" in output:
                proposals = output["proposals"].to(self._cpu_device)
                self._proposals.append(image["image_id"], proposals)

    def _check_prediction(self, image_id: Any, instances: Instances) -> None:
        if image_id not in self._image_ids:
            raise ValueError(
                f"Image id {image_id!r} is not in the annotations, whose ids start as "
                f"{self._ground_truth.image_ids[:3].tolist()}: do loader and evaluator use the "
                "same dataset?"
            )
        has_masks = instances.has("pred_masks")
        self._saw_masks |= has_masks
        if len(instances) and not has_masks and "segm" in (self._tasks or ()):
            raise ValueError("Task 'segm' needs masks, the model has none: pass tasks=('bbox',)")
        classes = self._category_ids
        if self._classes is not None:
            classes = dict(enumerate(self._classes.targets))
        unknown = set(instances.pred_classes.tolist()) - classes.keys()
        if unknown:
            names = ", ".join(
                map(repr, (self._class_names() or list(classes.values()))[:_SHOWN_NAMES])
            )
            raise ValueError(
                f"The model predicts class {max(unknown)}, but dataset {self._name!r} has "
                f"{len(self._category_ids)} classes ({names} ...). If the model has others, give "
                "their names as class_names, so that they are mapped by name"
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return metrics by task on the main process, ``{}`` on the others."""
        num_images, saw_masks, dropped = self._num_images, self._saw_masks, self._num_dropped
        proposals, found = self._proposals.columns(), self._found.columns()
        release_free_memory()
        if self._distributed:
            comm.synchronize()
            gathered = all_gather_json([num_images, saw_masks, dropped])
            num_images, dropped = (sum(counts[i] for counts in gathered) for i in (0, 2))
            saw_masks = any(counts[1] for counts in gathered)
            proposals = ProposalColumns.from_arrays(gather_columns(proposals.arrays()))
            # All ranks together may have more of a category than counts.
            log = self._new_log()
            log.append(gather_detections(found))
            found = log.columns()
            if not comm.is_main_process():
                return {}
        if not num_images and not len(proposals):
            self._logger.warning("There are no predictions to evaluate.")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
        if dropped:
            self._logger.warning(
                f"{dropped} of {dropped + len(found)} detections are of classes that dataset "
                f"{self._name!r} lacks: they are dropped"
            )
        self._results = {}
        if len(proposals):
            self._eval_box_proposals(proposals)
        if num_images:
            self._eval_detections(found, saw_masks)
        return copy.deepcopy(self._results)

    def _eval_detections(self, detections: Detections, saw_masks: bool) -> None:
        if self._output_dir:
            _save(detections, self._output_dir)
            if self.origin is not None:
                self.origin.write(self._output_dir)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        listed = np.isin(detections.category_ids, self._ground_truth.category_ids)
        if len(detections) and not listed.all():
            self._logger.warning(
                f"{int((~listed).sum())} of {len(detections)} detections are of categories that "
                "the annotation file does not list: they are not scored"
            )
            detections = detections.take(np.flatnonzero(listed))
        # A model with masks that found nothing is not seen in the detections.
        has_masks = self._ground_truth.table.has_segmentation.any()
        inferred = TASKS if saw_masks and has_masks else ("bbox",)
        if saw_masks and not has_masks:
            self._logger.warning("No annotation has a mask: only boxes are evaluated.")
        result = self._scoring.score(
            self._ground_truth,
            detections,
            self._tasks or inferred,
            train_images=self._train_images or {},
            analyze=bool(self._output_dir),
        )
        self._results |= result.metrics
        self.thresholds = result.split_thresholds(self._name)
        if self._output_dir:
            image_root = self._metadata.get("image_root")
            result.write(self._output_dir, report=self._report, image_root=image_root)


def _save(detections: Detections, folder: str) -> None:
    """Write the detections. What an earlier evaluation wrote of others is removed first."""
    remove_scores(folder)
    remove_files(folder, [MASK_RESULTS, ORIGIN])
    save_columns(os.path.join(folder, "instances_predictions.npz"), detections)
    write_results(os.path.join(folder, "lvis_instances_results.json"), detections)
    if detections.mask_scores is not None:
        path = os.path.join(folder, MASK_RESULTS)
        write_results(path, detections, "segm")


def _limits(max_dets_per_image: int, fixed_ap: bool) -> DetectionLimits:
    if not fixed_ap:
        return DetectionLimits(per_image=max_dets_per_image)
    if max_dets_per_image != _LVIS_LIMIT:
        raise ValueError(
            "AP-fixed has no limit per image: give max_dets_per_image or fixed_ap, got "
            f"{max_dets_per_image} and True"
        )
    return DetectionLimits.of_fixed_ap()
