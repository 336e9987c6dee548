"""Class counts of the training split, for the losses that need them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.data.catalog import FileMetadata
from d2_seesaw.data.frequency import category_image_counts
from d2_seesaw.utils.text import did_you_mean

UNITS = ("images", "instances")


def training_class_counts(
    names: str | Sequence[str], *, of: str = "images"
) -> Callable[[], list[int]]:
    """Return a function that counts the images or instances of each class in registered datasets.

    A config gives it to a loss as ``class_counts``. A loss calls it before its first step, so that
    a model can be built where the data are missing:

    - images are those in the metadata, ``class_image_count``, where these are of the dataset
      itself, as for Detectron2's LVIS, whose files are then not needed;
    - otherwise the annotation file is counted, because ``counts_from`` and the ``image_count`` of
      an LVIS file may be of another split. A file of 16 MiB and more is read from the copy that is
      kept once it has been parsed, see :func:`~d2_seesaw.data.load_dataset`;
    - a dataset without a file is loaded.

    Instances are the annotations that are not crowds. Only what training can use is counted.

    Args:
        names: one or several registered names, whose counts are added.
        of: what to count: ``"images"`` with a class, or ``"instances"`` of it.

    Returns:
        A function without arguments that returns C counts, in the order of the classes. It raises
        ValueError for a dataset that is not registered, has no classes or has other classes than
        the first one, and FileNotFoundError where the annotations are missing.

    Raises:
        ValueError: ``of`` is neither of the two, or there are no names.
    """
    if of not in UNITS:
        raise ValueError(f"of must be one of {UNITS}, got {of!r}")
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("names must have at least one registered dataset")
    return partial(_counted, names, of)


def _counted(names: list[str], of: str) -> list[int]:
    total, first = np.zeros(0, np.int64), None
    for name in names:
        counts = _count(name, of)
        classes = MetadataCatalog.get(name).get("thing_classes")
        if first is None:
            total, first = counts, classes
        elif classes != first or len(counts) != len(total):
            raise ValueError(f"datasets {names[0]!r} and {name!r} have different classes")
        else:
            total = total + counts
    return total.tolist()


def _count(name: str, of: str) -> np.ndarray:
    if name not in DatasetCatalog.list():
        near = did_you_mean(name, DatasetCatalog.list())
        raise ValueError(f"class_counts: dataset {name!r} is not registered{near}")
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if json_file is None:
        return _count_records(name, metadata, of)
    if of == "images" and (known := _known_images(name, metadata)) is not None:
        return known
    _check_exists(name, json_file)
    table = read_annotations(json_file)
    if of == "images":
        return table.image_counts()
    is_instance = table.usable & ~table.crowd
    return np.bincount(table.category[is_instance], minlength=len(table.categories))


def _known_images(name: str, metadata: Metadata) -> np.ndarray | None:
    """Return the images of each class by the metadata, in order of the category ids."""
    # Fields of FileMetadata that are not given follow from counts_from, or are those of the file.
    counts = metadata.as_dict().get("class_image_count")
    if not counts or isinstance(metadata, FileMetadata):
        return None
    by_id = {count["id"]: count["image_count"] for count in counts}
    if len(by_id) != len(metadata.get("thing_classes", ())):
        return None  # some of the classes are not in the list
    return np.array([by_id[i] for i in sorted(by_id)], np.int64)


def _count_records(name: str, metadata: Metadata, of: str) -> np.ndarray:
    """Count the dicts of a dataset that has no annotation file."""
    classes = metadata.get("thing_classes")
    if not classes:
        raise ValueError(f"class_counts: dataset {name!r} has no thing_classes in its metadata")
    dataset = DatasetCatalog.get(name)
    if of == "images":
        return category_image_counts(dataset, len(classes))
    each = [
        {**image, "annotations": [annotation]}
        for image in dataset
        for annotation in image["annotations"]
        if not annotation.get("iscrowd", 0)
    ]
    return category_image_counts(each, len(classes))


def _check_exists(name: str, json_file: str) -> None:
    if not Path(json_file).is_file():
        raise FileNotFoundError(
            f"class_counts of dataset {name!r} are counted in its annotations, which are missing: "
            f"{json_file}"
        )
