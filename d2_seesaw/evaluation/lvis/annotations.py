"""Annotations to evaluate against: completed to the LVIS format, and checked before inference.

LVIS is annotated in a federated way (Gupta et al., CVPR 2019, https://arxiv.org/abs/1908.03195): an
image says which categories were verified as absent and which were not annotated exhaustively.
COCO's JSON says neither, nor how frequent a category is in training. Its images are labeled
exhaustively: every category was looked for in every image.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from d2_seesaw.data.annotations.reader import file_image_counts, read_annotations
from d2_seesaw.data.annotations.schema import FEDERATED
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.class_names import counts_by_category
from d2_seesaw.data.frequency import UNKNOWN_FREQUENCY, frequency_group
from d2_seesaw.utils.text import did_you_mean

TrainImageCounts = Mapping[int, int] | str | PathLike[str]


def annotation_file(dataset_name: str) -> str:
    """Return the local path of the annotations of a registered dataset.

    Raises:
        ValueError: no annotation file is registered under ``dataset_name``.
        FileNotFoundError: it is registered, but does not exist.
    """
    # MetadataCatalog.get creates what it does not find, so look before asking.
    names = [n for n in MetadataCatalog.list() if MetadataCatalog.get(n).get("json_file")]
    if dataset_name not in names:
        hint = did_you_mean(dataset_name, names) or "."
        raise ValueError(
            f"No dataset with an annotation file is registered as {dataset_name!r}{hint} "
            "Register it first, with d2_seesaw.data.register_longtail_instances, or give the "
            "config that does (--config-file)"
        )
    json_file = MetadataCatalog.get(dataset_name).json_file
    if not PathManager.isfile(json_file):
        raise FileNotFoundError(f"Dataset {dataset_name!r} has no annotations at {json_file}")
    return PathManager.get_local_path(json_file)


def registered_train_images(dataset_name: str) -> dict[int, int] | None:
    """Return training images by category id, from Detectron2's ``class_image_count``, or None."""
    counts = MetadataCatalog.get(dataset_name).get("class_image_count") or []
    return {count["id"]: count["image_count"] for count in counts} or None


def read_evaluation_table(
    json_file: str,
    *,
    train_image_counts: TrainImageCounts | None = None,
    registered_counts: Mapping[int, int] | None = None,
    with_masks: bool,
) -> AnnotationTable:
    """Read annotations in COCO or LVIS format with all that the LVIS format requires.

    Args:
        json_file: the file.
        train_image_counts: training images by category id, or the training annotations in which to
            count them.
        registered_counts: training images by category id, for a file without frequency groups.
        with_masks: whether masks are to be evaluated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as :func:`~d2_seesaw.data.annotations.reader.read_annotations`, and if masks are
            to be evaluated and no annotation has one.
    """
    table = read_annotations(json_file)
    has_groups = any("frequency" in category for category in table.categories)
    if train_image_counts is None and not has_groups:
        train_image_counts = registered_counts
    counts = read_train_image_counts(train_image_counts, table.categories, json_file)
    if with_masks and len(table.image) and not table.has_segmentation.any():
        raise ValueError(
            f"{json_file} cannot be used to evaluate masks: none of its {len(table.image)} "
            "annotations has a 'segmentation'; boxes alone need --task bbox (tasks=('bbox',))"
        )
    return complete_coco_fields(table, counts)


def category_of_class(
    category_ids: list[int], mapping: Mapping[int, int] | None, num_classes: int | None
) -> dict[int, int]:
    """Return the category id in the annotation file of each class index of a model.

    Args:
        category_ids: all ids in the annotation file.
        mapping: the metadata's ``thing_dataset_id_to_contiguous_id``, category id to class index.
            Without it class i is category i + 1, Detectron2's rule for LVIS.
        num_classes: classes of the registered dataset, if known.

    Raises:
        ValueError: the ids do not fit the mapping, or the rule.
    """
    needed = "thing_dataset_id_to_contiguous_id: category id to class index"
    if mapping is not None:
        if not mapping.keys() & set(category_ids):
            raise ValueError(
                f"None of the category ids {category_ids[:5]}... is in the dataset's metadata "
                f"{needed}, which has {list(mapping)[:5]}..."
            )
        return {index: category_id for category_id, index in mapping.items()}
    last = num_classes or max(category_ids)
    outside = [i for i in category_ids if not 1 <= i <= last]
    if outside:
        raise ValueError(
            f"Category ids must be 1 to {last}, got {outside[:5]}. With other ids, the dataset's "
            f"metadata needs {needed}"
        )
    return {index: index + 1 for index in range(last)}


def complete_coco_fields(
    table: AnnotationTable, train_image_counts: Mapping[int, int] | None = None
) -> AnnotationTable:
    """Return a table with the fields of LVIS that a whole section lacks.

    - If no image has a federated set, all are labeled exhaustively. Where a category has a crowd
      ("iscrowd"), its single objects were not annotated: the crowd is ignored there, and detections
      of that category that match nothing are not wrong.
    - With ``train_image_counts``, the frequency group of each category follows from them, by the
      bounds of LVIS v1, and a category that they lack is rare. Without, the groups of a file that
      has no "frequency" at all are unknown.

    Args:
        table: the annotations.
        train_image_counts: training images by category id.
    """
    if not any(field in image for image in table.images for field in FEDERATED):
        table = _label_exhaustively(table)
    categories = [dict(category) for category in table.categories]
    if train_image_counts is not None:
        for category in categories:
            category["image_count"] = int(train_image_counts.get(category["id"], 0))
            category["frequency"] = frequency_group(category["image_count"])
    elif not any("frequency" in category for category in categories):
        for category in categories:
            category["frequency"] = UNKNOWN_FREQUENCY
    return replace(table, categories=categories)


def _label_exhaustively(table: AnnotationTable) -> AnnotationTable:
    every_category = [category["id"] for category in table.categories]
    pairs = np.unique(np.column_stack([table.image, table.category])[table.crowd], axis=0)
    crowds = {
        image: [every_category[category] for _, category in group]
        for image, group in itertools.groupby(pairs.tolist(), key=lambda pair: pair[0])
    }
    images = [
        # One list of all categories, because there may be many images.
        {**image, **dict(zip(FEDERATED, (every_category, crowds.get(index, [])), strict=True))}
        for index, image in enumerate(table.images)
    ]
    return replace(table, images=images, ignored=table.ignored | table.crowd)


def read_train_image_counts(
    counts: TrainImageCounts | None, categories: Sequence[Mapping[str, Any]], json_file: str
) -> Mapping[int, int] | None:
    """Return training images by category id.

    Args:
        counts: the numbers themselves, or the training annotations in which to count them, a JSON
            file in COCO or LVIS format. Its categories are found by name.
        categories: the categories of the evaluated annotations.
        json_file: the evaluated annotations, for messages.

    Raises:
        ValueError: the file cannot be read, has no annotations to count, or has other categories.
    """
    if counts is None or isinstance(counts, Mapping):
        return counts
    counted = file_image_counts(Path(counts))
    if not any(count["image_count"] for count in counted):
        raise ValueError(f"{counts} has no 'annotations' in which to count training images")
    return counts_by_category(categories, counted, json_file, counts)
