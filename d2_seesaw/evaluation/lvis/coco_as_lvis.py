"""Gives annotations in COCO's format what LVIS's rules need besides.

COCO's JSON says neither which categories were looked for in an image nor how frequent a category
is in training. Its images are labelled exhaustively, so every category was looked for in each.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from os import PathLike
from typing import Any

from d2_seesaw.data.frequency import frequency_group
from d2_seesaw.evaluation.lvis.annotations import UNKNOWN_FREQUENCY

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")

TrainImageCounts = Mapping[int, int] | str | PathLike[str]


def is_federated(dataset: dict[str, Any]) -> bool:
    """Whether any image says which of its categories were verified."""
    return any(field in image for image in dataset["images"] for field in _FEDERATED)


def complete_coco_fields(
    dataset: dict[str, Any], train_image_counts: Mapping[int, int] | None = None
) -> None:
    """Add to ``dataset``, in place, the fields of LVIS that a whole section lacks.

    - Images of which none has a federated set are labelled exhaustively. Where a category has a
      crowd ("iscrowd"), its single objects were not annotated: the crowd is ignored there, and
      detections of that category that match nothing are not wrong.
    - With ``train_image_counts``, the frequency group of each category follows from them, by the
      bounds of LVIS v1, and a category that they lack is rare. Without, a file that has no
      "frequency" at all has unknown groups.

    What only a part of a section lacks is left for ``check_lvis_format`` to refuse.

    Args:
        dataset: The parsed annotation file.
        train_image_counts: Training images by category id.
    """
    if not is_federated(dataset):
        _label_exhaustively(dataset)
    categories = dataset["categories"]
    if train_image_counts is not None:
        for category in categories:
            category["image_count"] = int(train_image_counts.get(category["id"], 0))
            category["frequency"] = frequency_group(category["image_count"])
    elif not any("frequency" in category for category in categories):
        for category in categories:
            category["frequency"] = UNKNOWN_FREQUENCY


def _label_exhaustively(dataset: dict[str, Any]) -> None:
    every_category = [category["id"] for category in dataset["categories"]]
    crowds: dict[Any, set[int]] = {}
    for annotation in dataset["annotations"]:
        if annotation.get("iscrowd"):
            annotation["ignore"] = 1
            crowds.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    for image in dataset["images"]:
        image["neg_category_ids"] = every_category  # one list: there may be many images
        image["not_exhaustive_category_ids"] = sorted(crowds.get(image["id"], ()))


def read_train_image_counts(counts: TrainImageCounts | None) -> Mapping[int, int] | None:
    """Training images by category id.

    Args:
        counts: They themselves, or the training annotations, a JSON file in the format of COCO or
            LVIS in which to count them.

    Raises:
        ValueError: the file has no annotations to count.
    """
    if counts is None or isinstance(counts, Mapping):
        return counts
    with open(counts) as file:
        dataset = json.load(file)
    if not isinstance(dataset, dict) or not dataset.get("annotations"):
        raise ValueError(f"{counts} has no 'annotations' in which to count training images")
    pairs = {(a["image_id"], a["category_id"]) for a in dataset["annotations"]}
    return Counter(category for _, category in pairs)
