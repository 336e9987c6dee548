"""Images that a calibration is fitted on, none of them evaluated, and counts of the classes."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from d2_seesaw.data import check_dataset_files, load_dataset, training_class_counts
from d2_seesaw.data.annotations.coco import parse_text
from d2_seesaw.data.annotations.reader import content_hash
from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.class_names import compare_names
from d2_seesaw.evaluation.lvis.annotations import complete_coco_fields
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns

Record = Mapping[str, Any]
"""Dict of an image in Detectron2's format."""

ABSENT, OPEN = "negative_classes", "not_exhaustive_classes"
"""Keys of an image to fit on, see :func:`in_classes_of_model`."""


@dataclass(frozen=True)
class MatchedClasses:
    """Classes of a dataset among those of the model.

    Attributes:
        of_model: class of the model for each class of the dataset.
        num_classes: C, classes of the model.
        message: one line that says what differs; empty if nothing does.
    """

    of_model: tuple[int, ...]
    num_classes: int
    message: str = ""


@dataclass(frozen=True)
class FittingSplit:
    """Images to fit on.

    Attributes:
        names: registered datasets.
        records: the chosen images, in the order of the dataset, with the classes of the model, see
            :func:`in_classes_of_model`.
        total: number of images with objects in the datasets.
        seed: seed of the choice.
    """

    names: list[str]
    records: Sequence[Record]
    total: int
    seed: int

    def __str__(self) -> str:
        chosen = f"{len(self.records)} of {self.total} images of {', '.join(self.names)}"
        return chosen if len(self.records) == self.total else f"{chosen}, seed {self.seed}"


def as_names(names: str | Sequence[str] | None) -> list[str]:
    """Return dataset names as a list."""
    return [names] if isinstance(names, str) else list(names or ())


def choose_images(
    names: str | Sequence[str],
    evaluated: str | Sequence[str] | None,
    classes: MatchedClasses,
    *,
    fraction: float = 1.0,
    seed: int = 0,
) -> FittingSplit:
    """Draw the images to fit on from a dataset that shares none with the evaluated one.

    Args:
        names: registered datasets to fit on.
        evaluated: the test split of the config; None if it has none.
        classes: the classes of the dataset, see :func:`match_classes`.
        fraction: share of the images with objects, at least one.
        seed: seed of the draw. The same seed draws the same images.

    Raises:
        ValueError: a name is evaluated, an image of the whole dataset is one of the evaluated
            images, or the fraction is out of range.
        FileNotFoundError: a dataset is not there.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of images to fit on must be in (0, 1], got {fraction}")
    fitted, tested = as_names(names), as_names(evaluated)
    if both := sorted(set(fitted) & set(tested)):
        raise ValueError(
            f"{both[0]} is the test split of the config: a calibration that is fitted on it would "
            "be evaluated on its own data. Give the training split or another one"
        )
    dataset = _without_masks(load_dataset(fitted))
    if tested:
        check_no_shared_image(dataset, _without_masks(load_dataset(tested, filter_empty=False)))
    number = max(1, round(fraction * len(dataset)))
    drawn = np.random.default_rng(seed).permutation(len(dataset))[:number]
    records = [in_classes_of_model(dataset[int(i)], fitted, classes) for i in np.sort(drawn)]
    return FittingSplit(fitted, records, len(dataset), seed)


def _without_masks(dataset: Sequence[Any]) -> Sequence[Record]:
    return dataset.without_masks() if isinstance(dataset, Records) else dataset


def check_no_shared_image(fitted: Iterable[Record], evaluated: Iterable[Record]) -> None:
    """Check that no image is in both datasets.

    An image is in both if both name the same file, or files with the same content. Only files of
    the same size are read.

    Raises:
        ValueError: an image is in both.
    """
    files = {os.path.realpath(record["file_name"]): record for record in evaluated}
    of_size: defaultdict[int, list[str]] = defaultdict(list)
    for path in files:
        if os.path.isfile(path):
            of_size[os.path.getsize(path)].append(path)
    hashes: dict[int, dict[str, str]] = {}
    for record in fitted:
        path = os.path.realpath(record["file_name"])
        shared = path if path in files else None
        if shared is None and os.path.isfile(path) and (size := os.path.getsize(path)) in of_size:
            if size not in hashes:
                hashes[size] = {content_hash(alike): alike for alike in of_size[size]}
            shared = hashes[size].get(content_hash(path))
        if shared is not None:
            raise ValueError(
                f"image {record.get('image_id')!r} to fit on, {record['file_name']}, is an image "
                f"of the test split, {files[shared]['file_name']}: fit on other images"
            )


def match_classes(
    names: str | Sequence[str], class_names: Sequence[str] | None, num_classes: int, source: str
) -> MatchedClasses:
    """Find the classes of a dataset among those of the model by their names.

    Args:
        names: registered datasets with the same classes.
        class_names: names of the C classes of the model; None if they are unknown.
        num_classes: C.
        source: description of ``class_names``, for messages.

    Returns:
        The classes by name. Without names on one side, they are taken by position.

    Raises:
        ValueError: the dataset has names that the model lacks, or, if those of the model are
            unknown, another number of classes.
        FileNotFoundError: a dataset is not there.
    """
    names = as_names(names)
    check_dataset_files(names)
    known = MetadataCatalog.get(names[0]).get("thing_classes")
    if not known:  # many datasets know their names once they have been loaded
        load_dataset(names)
        known = MetadataCatalog.get(names[0]).get("thing_classes")
    if class_names and known:
        target = f"dataset {names[0]!r}"
        mapping = compare_names(class_names, known, source=source, target=target)
        places = {place: c for c, place in enumerate(mapping.targets) if place is not None}
        of_model = tuple(places[place] for place in range(len(known)))
        return MatchedClasses(of_model, num_classes, mapping.message)
    if known and len(known) != num_classes:
        raise ValueError(
            f"dataset {names[0]!r} has {len(known)} categories, the model {num_classes} classes"
        )
    return MatchedClasses(tuple(range(num_classes)), num_classes)


def training_counts(
    names: str | Sequence[str], classes: MatchedClasses, *, of: str = "images"
) -> np.ndarray:
    """Count the classes of the model in the training split.

    Args:
        names: registered datasets.
        classes: the classes of the datasets, see :func:`match_classes`.
        of: ``"images"`` that have the class, as in the code of NorCal, or ``"instances"``.

    Returns:
        ``(C,)`` int64 counts, 0 for classes that the datasets lack.

    Raises:
        ValueError: another ``of``, or another number of classes.
    """
    found = training_class_counts(names, of=of)()
    if len(found) != len(classes.of_model):
        raise ValueError(
            f"dataset {as_names(names)[0]!r} has {len(found)} categories, the model "
            f"{classes.num_classes} classes"
        )
    counts = np.zeros(classes.num_classes, np.int64)
    counts[list(classes.of_model)] = found
    return counts


def ground_truth_of(
    split: FittingSplit, num_classes: int, image_counts: np.ndarray
) -> GroundTruthColumns:
    """Return the boxes of the images to fit on as ground truth.

    The id of an image is its place in ``split.records``, the id of a category its class plus 1.

    Args:
        split: the images.
        num_classes: C.
        image_counts: ``(C,)`` training images of each class, for the frequency groups.
    """
    images, annotations = [], []
    for place, record in enumerate(split.records):
        image = {key: record[key] for key in ("height", "width")} | {"id": place}
        if ABSENT in record:
            image["neg_category_ids"] = [c + 1 for c in record[ABSENT]]
            image["not_exhaustive_category_ids"] = [c + 1 for c in record.get(OPEN, ())]
        images.append({**image, "file_name": record["file_name"]})
        for annotation in record["annotations"]:
            box = xywh(annotation)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": place,
                    "category_id": annotation["category_id"] + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                }
            )
    categories = [{"id": c + 1, "name": str(c)} for c in range(num_classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    table = parse_text(msgspec.json.encode(content), "the images to fit on").table
    counts = {c + 1: int(count) for c, count in enumerate(image_counts)}
    return GroundTruthColumns.from_table(complete_coco_fields(table, counts))


def xywh(annotation: Mapping[str, Any]) -> list[float]:
    """Return left, top, width and height of an annotation's box."""
    box: Any = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return [float(value) for value in box]


def in_classes_of_model(
    record: Record, names: Sequence[str], classes: MatchedClasses
) -> dict[str, Any]:
    """Return an image with the classes of the model in place of those of its dataset.

    Where only some classes were looked for, the classes that were verified to be absent are its
    :data:`ABSENT`, and those that may have more objects its :data:`OPEN`.

    Args:
        record: image of the dataset.
        names: the dataset.
        classes: the classes of the dataset, see :func:`match_classes`.
    """
    to = classes.of_model
    objects = [a | {"category_id": to[a["category_id"]]} for a in record["annotations"]]
    found = {**record, "annotations": objects}
    if "neg_category_ids" in record:
        keys = {ABSENT: "neg_category_ids", OPEN: "not_exhaustive_category_ids"}
        for key, of_file in keys.items():
            found[key] = [to[c] for c in classes_of_ids(record.get(of_file, ()), names)]
    elif len(to) < classes.num_classes:  # the others were not looked for
        found |= {ABSENT: sorted(set(to) - {a["category_id"] for a in objects}), OPEN: []}
    return found


def classes_of_ids(ids: Iterable[int], names: Sequence[str]) -> list[int]:
    """Return the classes of category ids; by default Detectron2's rule for LVIS, id minus 1."""
    mapping = MetadataCatalog.get(names[0]).get("thing_dataset_id_to_contiguous_id")
    if mapping is None:
        return [i - 1 for i in ids]
    return [mapping[i] for i in ids if i in mapping]
