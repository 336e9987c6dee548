"""Annotations in the format of LVIS or COCO: checked before inference, ready to be scored against.

LVIS is annotated in a federated way (Gupta et al., CVPR 2019, https://arxiv.org/abs/1908.03195): an
image says which categories were verified as absent and which were not annotated exhaustively.
COCO's JSON says neither, nor how frequent a category is in training. Its images are labelled
exhaustively, so every category was looked for in each.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from d2_seesaw.data.frequency import GROUPS, frequency_group
from d2_seesaw.utils.text import did_you_mean

if TYPE_CHECKING:
    from lvis import LVIS

REQUIRED_FIELDS = {
    "categories": ("id", "frequency"),
    "images": ("id", "neg_category_ids", "not_exhaustive_category_ids"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
}
UNKNOWN_FREQUENCY = "n/a"
_BOXES_ONLY = "to evaluate boxes only, pass tasks=('bbox',)"

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")

TrainImageCounts = Mapping[int, int] | str | PathLike[str]


def annotation_file(dataset_name: str) -> str:
    """Local path of the annotations of a registered dataset.

    Raises:
        ValueError: No annotation file is registered under ``dataset_name``.
        FileNotFoundError: It is registered, but not there.
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
    """Training images by category id that the metadata of a dataset know, or None.

    They are Detectron2's ``class_image_count``.
    """
    counts = MetadataCatalog.get(dataset_name).get("class_image_count") or []
    return {count["id"]: count["image_count"] for count in counts} or None


def check_lvis_format(dataset: dict[str, Any], json_file: str, *, with_masks: bool) -> None:
    """Raise one ``ValueError`` naming every field that LVIS evaluation needs and ``dataset`` lacks.

    A dataset without annotations, such as a test split, passes: nothing of it will be scored.

    Args:
        dataset: The parsed annotation file.
        json_file: Its path, for the message.
        with_masks: Whether annotations need a segmentation.
    """
    if not dataset["annotations"]:
        return
    problems = _missing_fields(dataset, with_masks=with_masks) or _wrong_values(dataset)
    if with_masks and not problems:
        problems = _wrong_polygons(dataset["annotations"])
    if problems:
        raise ValueError(
            f"{json_file} cannot be evaluated as LVIS: {'; '.join(problems)}. "
            "The LVIS format: https://www.lvisdataset.org/dataset"
        )


def _missing_fields(dataset: dict[str, Any], *, with_masks: bool) -> list[str]:
    problems = []
    for section, fields in REQUIRED_FIELDS.items():
        if section == "annotations" and with_masks:
            fields = (*fields, "segmentation")
        entries = dataset[section]
        absent = Counter(f for entry in entries for f in fields if _lacks(entry, f))
        problems += [
            f"{n} of {len(entries)} {section} have no {field!r}" for field, n in absent.items()
        ]
    if any("'segmentation'" in problem for problem in problems):
        problems.append(_BOXES_ONLY)
    return problems


def _lacks(entry: Mapping[str, Any], field: str) -> bool:
    value = entry.get(field)
    # Lists of categories may be empty, masks not: pycocotools fails on them after all inference.
    return value is None or (field == "segmentation" and not value)


def _wrong_polygons(annotations: list[dict[str, Any]]) -> list[str]:
    # pycocotools takes four numbers for a box, or fails.
    wrong = [
        a["id"]
        for a in annotations
        if isinstance(a["segmentation"], list) and any(len(p) < 6 for p in a["segmentation"])
    ]
    if not wrong:
        return []
    number = f"{len(wrong)} of {len(annotations)} annotations"
    return [
        f"{number} have polygons of fewer than three points, for example {wrong[0]!r}",
        _BOXES_ONLY,
    ]


def _wrong_values(dataset: dict[str, Any]) -> list[str]:
    problems = []
    unknown = {c["frequency"] for c in dataset["categories"]} - {*GROUPS, UNKNOWN_FREQUENCY}
    if unknown:
        problems.append(f"'frequency' must be in {GROUPS}, got {sorted(map(str, unknown))}")
    for section in ("images", "annotations"):
        repeated = [i for i, n in Counter(e["id"] for e in dataset[section]).items() if n > 1]
        if repeated:
            problems.append(f"{section} share an id, for example {repeated[0]}")
    return problems


def category_of_class(
    category_ids: list[int], mapping: Mapping[int, int] | None, num_classes: int | None
) -> dict[int, int]:
    """Category id in the annotation file of each class index of a model.

    Args:
        category_ids: All ids in the annotation file.
        mapping: The metadata's ``thing_dataset_id_to_contiguous_id``, category id to class index.
            Without it class i is category i + 1, Detectron2's rule for LVIS.
        num_classes: Classes of the registered dataset, if known.

    Raises:
        ValueError: The ids cannot be meant by the mapping, or by the rule.
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


def load_annotations(json_file: str) -> LVIS:
    """The annotations, indexed.

    Raises:
        ValueError: the file is not JSON, or not of this kind.
    """
    from lvis import LVIS

    with wrap_lvis_errors(json_file):
        return LVIS(json_file)


@contextmanager
def wrap_lvis_errors(json_file: str) -> Iterator[None]:
    """Turn what ``lvis`` raises inside the ``with`` block, on reading it, into a ``ValueError``."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{json_file} is no LVIS or COCO file: it lacks {error}") from error
    except (AssertionError, ValueError) as error:
        raise ValueError(f"{json_file} is no LVIS or COCO file: {error}") from error


def prepare_annotations(
    ground_truth: LVIS,
    json_file: str,
    *,
    train_image_counts: TrainImageCounts | None,
    with_masks: bool,
    registered_counts: Mapping[int, int] | None = None,
) -> None:
    """Complete the annotations of COCO's kind in place, then check them.

    Args:
        ground_truth: The annotations.
        json_file: Their file, for the message.
        train_image_counts: As in ``read_train_image_counts``.
        with_masks: Whether annotations need a segmentation.
        registered_counts: Training images by category id, for annotations without groups.

    Raises:
        ValueError: naming every field that is still missing.
    """
    dataset = ground_truth.dataset
    has_groups = any("frequency" in category for category in dataset["categories"])
    if train_image_counts is None and not has_groups:
        train_image_counts = registered_counts
    complete_coco_fields(dataset, read_train_image_counts(train_image_counts))
    check_lvis_format(dataset, json_file, with_masks=with_masks)
