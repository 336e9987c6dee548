"""Checks that a registered dataset can be evaluated by LVIS's rules, before any inference.

LVIS is annotated in a federated way (Gupta et al., CVPR 2019, https://arxiv.org/abs/1908.03195): an
image says which categories were verified as absent and which were not annotated exhaustively.
COCO's JSON has neither.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

REQUIRED_FIELDS = {
    "categories": ("id", "frequency"),
    "images": ("id", "neg_category_ids", "not_exhaustive_category_ids"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
}
FREQUENCIES = ("r", "c", "f")
UNKNOWN_FREQUENCY = "n/a"
_BOXES_ONLY = "to evaluate boxes only, pass tasks=('bbox',)"


def annotation_file(dataset_name: str) -> str:
    """Local path of the annotations of a registered dataset.

    Raises:
        ValueError: No annotation file is registered under ``dataset_name``.
        FileNotFoundError: It is registered, but not there.
    """
    # MetadataCatalog.get creates what it does not find, so look before asking.
    names = [n for n in MetadataCatalog.list() if MetadataCatalog.get(n).get("json_file")]
    if dataset_name not in names:
        nearest = difflib.get_close_matches(dataset_name, names, n=1)
        suggestion = f"Did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"No dataset with an annotation file is registered as {dataset_name!r}. {suggestion}"
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
    unknown = {c["frequency"] for c in dataset["categories"]} - {*FREQUENCIES, UNKNOWN_FREQUENCY}
    if unknown:
        problems.append(f"'frequency' must be in {FREQUENCIES}, got {sorted(map(str, unknown))}")
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
