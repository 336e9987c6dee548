"""Image classification datasets from text files with one labeled image per line.

ImageNet-LT and Places-LT (Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR
2019) and the lists of iNaturalist 2018 by Kang et al. (ICLR 2020) have this format::

    train/n01440764/n01440764_190.JPEG 0

Labels run from 0. The path is relative to the folder of the images and may contain spaces.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from d2_seesaw.data.catalog import datasets_root
from d2_seesaw.utils.text import did_you_mean

_SHOWN = 5
_FROM_THE_LIST = ("thing_classes", "thing_dataset_id_to_contiguous_id", "class_image_count")


class ListedImage(NamedTuple):
    """One line of a list of images."""

    path: str
    """Path relative to the folder of the images."""
    label: int
    line: int
    """Number of the line, from 1."""


def read_image_list(list_file: str | Path, *, num_classes: int | None = None) -> list[ListedImage]:
    """Read and check a list of images, one ``PATH LABEL`` per line. Blank lines are skipped.

    Args:
        list_file: the text file.
        num_classes: C; labels must be in ``[0, C)``. By default any label from 0 on is valid.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is malformed, a label is out of range, an image is listed twice, or the
            list is empty. The message names the file and the lines.
    """
    lines = _lines(list_file)
    found: list[ListedImage] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _parse(line, number, num_classes)
        if isinstance(entry, str):
            faults.append(entry)
            continue
        earlier = first_line.setdefault(os.path.normpath(entry.path), number)
        if earlier != number:
            faults.append(f"line {number}: {entry.path} is also in line {earlier}")
        found.append(entry)
    _raise_faults(list_file, faults)
    if not found:
        raise ValueError(f"{list_file} lists no images")
    return found


def _lines(list_file: str | Path) -> list[str]:
    try:
        lines = Path(list_file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{list_file} is not a text file in UTF-8: {error}") from error
    except IsADirectoryError as error:
        raise ValueError(f"{list_file} is a folder, expected a list of images") from error
    if lines and lines[0].startswith("version https://git-lfs"):
        raise ValueError(f"{list_file} is a pointer of Git LFS, not the list: run `git lfs pull`")
    return lines


def _parse(line: str, number: int, num_classes: int | None) -> ListedImage | str:
    """Return the entry of a line, or a message about it."""
    path, label = ("", *line.rsplit(maxsplit=1))[-2:]
    if not path.strip() or not label.isdecimal():
        return f"line {number}: expected 'PATH LABEL' with a label from 0 on, got {line!r}"
    # isdecimal also accepts the digits of other scripts, which int() reads.
    if num_classes is not None and int(label) >= num_classes:
        return f"line {number}: the label must be in [0, {num_classes - 1}], got {label}"
    return ListedImage(path.strip(), int(label), number)


def _raise_faults(list_file: str | Path, faults: Sequence[str]) -> None:
    if faults:
        more = f"; ... ({len(faults)} in total)" if len(faults) > _SHOWN else ""
        raise ValueError(f"{list_file}: {'; '.join(faults[:_SHOWN])}{more}")


def register_image_list(
    name: str,
    list_file: str | Path,
    image_root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    counts_from: str | None = None,
) -> None:
    """Register a list of images for classification. No file is read until the data are used.

    The records have ``file_name``, ``image_id`` (their index), ``listed_at`` (list and line), and
    their label as the ``category_id`` of one annotation without a box, so that samplers and counts
    of instances work on them too. The metadata get ``thing_classes`` and ``class_image_count``, the
    training images of each class. Registering the same dataset again changes nothing.

    Args:
        name: name of the dataset in Detectron2's catalogs.
        list_file: the text file, see :func:`read_image_list`.
        image_root: folder of the images.
        classes: names of the C classes. By default they are the names of the folders of the
            training images, if each class has one folder of its own, and else the labels.
        num_classes: C. By default it is the number of ``classes``, or else the largest label of the
            training split plus one.
        counts_from: registered training split of an evaluated split. Classes, their number and
            their training images come from it, and no image may be in both. By default this
            dataset is a training split, and every class must have an image.

    Raises:
        ValueError: ``name`` is registered with other arguments, or the arguments contradict each
            other. On first use: as :func:`read_image_list`; a class without a training image; an
            image that is also in the training split; or an unknown ``counts_from``.
    """
    if counts_from is not None and (classes is not None or num_classes is not None):
        raise ValueError(f"dataset {name!r}: classes come from counts_from={counts_from!r}")
    if classes is not None and num_classes not in (None, len(classes)):
        raise ValueError(
            f"dataset {name!r}: num_classes={num_classes} but {len(classes)} class names"
        )
    if classes is not None and (twice := [c for c, n in Counter(classes).items() if n > 1]):
        raise ValueError(f"dataset {name!r}: the class name {twice[0]!r} is given twice")
    given = {
        "list_file": str(list_file),
        "image_root": str(image_root),
        "given_classes": None if classes is None else [str(c) for c in classes],
        "num_classes": num_classes if classes is None else len(classes),
        "counts_from": counts_from,
        "evaluator_type": "classification",
    }
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name).as_dict()
        other = {key: known.get(key) for key in given if known.get(key) != given[key]}
        if other:
            asked = {key: given[key] for key in other}
            raise ValueError(f"dataset {name!r} is already registered with {other}, not {asked}")
        return
    registered = ImageListMetadata(**{**given, "name": name})
    DatasetCatalog.register(name, registered.records)
    MetadataCatalog[name] = registered


class ImageListMetadata(Metadata):
    """Detectron2's metadata with classes and counts that are read from the list on first access."""

    def __getattr__(self, key: str) -> Any:
        if key in _FROM_THE_LIST:
            self._set_classes()
            return self.__dict__[key]
        return super().__getattr__(key)

    def entries(self) -> list[ListedImage]:
        """Return the checked entries of the list."""
        if self.counts_from is not None:
            training = _training_split(self.name, self.counts_from)
            entries = _read_once(self.list_file, len(training.thing_classes))
            _check_disjoint(self, entries, training)
            return entries
        entries = _read_once(self.list_file, self.num_classes)
        _check_gaps(self.list_file, entries, self.num_classes)
        return entries

    def records(self) -> list[dict[str, Any]]:
        """Return the images as dicts in Detectron2's format."""
        return [
            {
                "file_name": os.path.join(self.image_root, entry.path),
                "image_id": index,
                "annotations": [{"category_id": entry.label}],
                "listed_at": f"{self.list_file}:{entry.line}",
            }
            for index, entry in enumerate(self.entries())
        ]

    def _set_classes(self) -> None:
        if self.counts_from is not None:
            training = _training_split(self.name, self.counts_from)
            self.__dict__.update({key: getattr(training, key) for key in _FROM_THE_LIST})
            return
        entries = self.entries()
        number = self.num_classes or 1 + max(entry.label for entry in entries)
        counts = Counter(entry.label for entry in entries)
        self.__dict__["thing_classes"] = self.given_classes or _folder_names(entries, number)
        self.__dict__["thing_dataset_id_to_contiguous_id"] = {c: c for c in range(number)}
        self.__dict__["class_image_count"] = [
            {"id": c, "image_count": counts[c]} for c in range(number)
        ]


@lru_cache(maxsize=8)
def _read_once(list_file: str, num_classes: int | None) -> list[ListedImage]:
    return read_image_list(list_file, num_classes=num_classes)


def _training_split(name: str, counts_from: str) -> ImageListMetadata:
    if counts_from in DatasetCatalog.list():
        found = MetadataCatalog.get(counts_from)
        if isinstance(found, ImageListMetadata) and found.counts_from is None:
            return found
    near = did_you_mean(counts_from, DatasetCatalog.list())
    raise ValueError(
        f"dataset {name!r}: counts_from must be the registered list of a training split, got "
        f"{counts_from!r}{near}"
    )


def _check_gaps(list_file: str, entries: Sequence[ListedImage], num_classes: int | None) -> None:
    present = {entry.label for entry in entries}
    number = num_classes or 1 + max(present)
    gaps = [label for label in range(number) if label not in present]
    if gaps:
        more = ", ..." if len(gaps) > _SHOWN else ""
        raise ValueError(
            f"{list_file}: {len(gaps)} of {number} classes have no training image: "
            f"{', '.join(map(str, gaps[:_SHOWN]))}{more}. Labels must run from 0 without gaps"
        )


def _check_disjoint(
    split: ImageListMetadata, entries: Sequence[ListedImage], training: ImageListMetadata
) -> None:
    def place(root: str, entry: ListedImage) -> str:
        return os.path.normpath(os.path.join(root, entry.path))

    trained = {place(training.image_root, entry): entry.line for entry in training.entries()}
    faults = [
        f"line {entry.line}: {entry.path} is also in {training.list_file}, line {line}"
        for entry in entries
        if (line := trained.get(place(split.image_root, entry))) is not None
    ]
    _raise_faults(split.list_file, faults)


def _folder_names(entries: Iterable[ListedImage], num_classes: int) -> list[str]:
    """Return the name of the folder of each class, or else the labels as names."""
    folders: list[set[str]] = [set() for _ in range(num_classes)]
    for entry in entries:
        folders[entry.label].add(os.path.basename(os.path.dirname(entry.path)))
    names = [next(iter(found)) if len(found) == 1 else "" for found in folders]
    has_names = all(names) and len(set(names)) == num_classes
    return names if has_names else [str(label) for label in range(num_classes)]


def label_of(record: Mapping[str, Any]) -> int:
    """Return the label of a record.

    Raises:
        ValueError: the record is not labeled with one class.
    """
    annotations = record.get("annotations", ())
    if len(annotations) != 1:
        raise ValueError(
            f"{record.get('file_name', 'an image')} must have one label, it has "
            f"{len(annotations)} annotations: register the data with register_image_list"
        )
    return annotations[0]["category_id"]


def register_imagenet_lt() -> None:
    """Register ``imagenet_lt_train``, ``_val`` and ``_test`` below the folder of all datasets.

    The lists are ``imagenet_lt/ImageNet_LT_{train,val,test}.txt``. Images are in
    ``imagenet/{train,val}/SYNSET/``: the test split is ImageNet's validation split, sorted into
    folders.
    """
    for split in ("train", "val", "test"):
        is_training = split == "train"
        register_image_list(
            f"imagenet_lt_{split}",
            datasets_root() / "imagenet_lt" / f"ImageNet_LT_{split}.txt",
            datasets_root() / "imagenet",
            num_classes=1000 if is_training else None,
            counts_from=None if is_training else "imagenet_lt_train",
        )
