"""Datasets by name: registered once, checked before anything expensive starts, loaded once.

LVIS v1, COCO, Cityscapes and ADE20K are registered by Detectron2 itself; the generated quickstart
data by ``quickstart.py``, and folders for semantic segmentation by ``semantic/folders.py``.
Your own long-tailed instances, in COCO or LVIS format, are registered here under any name. The
names, ids and image counts of their categories come from files. They are read on first access, so
that registering costs nothing and its order does not matter.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.catalog import Metadata

from d2_seesaw.data.annotations.reader import file_image_counts, read_annotations, read_categories
from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.class_names import counts_by_category
from d2_seesaw.utils.text import did_you_mean

logger = logging.getLogger(__name__)

_FROM_THE_FILE = ("thing_classes", "thing_dataset_id_to_contiguous_id")
_IMAGES_LOOKED_FOR = 20
_given: dict[str, dict[str, Any]] = {}  # by name, as it was registered

# Detectron2 finds images by the last two parts of their URL. Validation images of LVIS v1 lie in
# both folders.
_LVIS_V1_FOLDERS = {"lvis_v1_train": ("train2017",), "lvis_v1_val": ("train2017", "val2017")}

_CITYSCAPES_LABELS = "*_labelTrainIds.png"

_HOW_TO_GET = {
    "ade20k": "images: http://sceneparsing.csail.mit.edu, labels: "
    "datasets/prepare_ade20k_sem_seg.py of Detectron2",
    "cityscapes": "leftImg8bit and gtFine: https://www.cityscapes-dataset.com/downloads",
    "classification_quickstart": "generate it: d2-seesaw generate classification",
    "coco": "annotations and images: https://cocodataset.org",
    "coco_2017_train_stuff": "label maps (stuffthingmaps_trainval2017.zip): "
    "https://github.com/nightrome/cocostuff",
    "imagenet_lt": "lists: https://github.com/zhmiao/OpenLongTailRecognition-OLTR, images: "
    "https://image-net.org, those of validation sorted into one folder per synset",
    "lvis_v1": "annotations: https://www.lvisdataset.org/dataset, images: https://cocodataset.org",
    "quickstart": "generate it: d2-seesaw generate instances",
    "semantic_quickstart": "generate it: d2-seesaw generate semantic",
    "synthia_rand": "SYNTHIA-RAND-CITYSCAPES: https://synthia-dataset.net/downloads, unpacked as "
    "RAND_CITYSCAPES",
    "synthia_seqs": "SYNTHIA-SEQS-05-SUMMER: https://synthia-dataset.net/downloads",
}


def register_longtail_instances(
    name: str,
    metadata: Mapping[str, Any] | None = None,
    json_file: str | Path | None = None,
    image_root: str | Path | None = None,
    *,
    counts_from: str | Path | None = None,
) -> None:
    """Register instances in COCO or LVIS format. Nothing is read until the data are used.

    Arguments are in the order of Detectron2's ``register_lvis_instances``. The name has no special
    meaning. Category ids may be any; classes are numbered in their order. Masks are polygons or
    run-length encodings, compressed or not, or there are none. LVIS's federated fields are kept
    where the file has them. The path of an image is its ``file_name``, or else the last two parts,
    or the last, of its ``coco_url``.

    ``DatasetCatalog.get`` returns a list of dicts, as for any dataset of Detectron2.
    :func:`load_dataset` returns dicts that are built when they are read.

    The metadata get, besides ``json_file``, ``image_root`` and ``evaluator_type`` "lvis":

    - ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``, from the file;
    - ``class_image_count``, Detectron2's list of ``{"id": category id, "image_count": n}``, from
      which the rare, common and frequent categories follow.

    Registering the same thing again changes nothing.

    Args:
        name: the name of the dataset in Detectron2's catalogs.
        metadata: further metadata fields; ``class_image_count`` if it is known.
        json_file: the annotations.
        image_root: folder of the images.
        counts_from: the training split whose images are counted, by the names of the categories: a
            registered name, or a file. By default the counts are the ``image_count`` of the file's
            categories, as in LVIS, or else those of its own images. Splits other than the training
            split need this argument then.

    Raises:
        ValueError: no ``json_file`` or ``image_root``, ``name`` is registered with other arguments,
            or ``metadata`` has a field that comes from the files. On first use: a file that is not
            in the format, categories that share an id or a name, unknown categories, or a
            ``counts_from`` that is neither a name nor a file or whose categories have other names.
    """
    if json_file is None or image_root is None:
        raise ValueError(f"dataset {name!r} needs a json_file and an image_root")
    # What identifies the dataset; as plain values, for they are kept in Detectron2's metadata.
    given = {
        "json_file": str(json_file),
        "image_root": str(image_root),
        "counts_from": None if counts_from is None else str(counts_from),
        **{"evaluator_type": "lvis", **(metadata or {})},
    }
    _check_metadata(metadata or {}, counts_from)
    if name in DatasetCatalog.list():
        _check_same(name, given)
        return
    earlier = MetadataCatalog.get(name).as_dict()
    registered = FileMetadata(**{**earlier, **given, "name": name})
    DatasetCatalog.register(name, lambda: registered.records().to_list())
    MetadataCatalog[name] = registered
    _given[name] = given


def given_to_register(name: str) -> dict[str, Any] | None:
    """Return what :func:`register_longtail_instances` was given, metadata included.

    Returns:
        ``json_file``, ``image_root`` and ``counts_from`` as text, and the fields of the metadata.
        None for datasets that were registered in another way.
    """
    return _given.get(name) if name in DatasetCatalog.list() else None


def load_longtail_json(json_file: str | Path, image_root: str | Path) -> Records:
    """Load annotations in COCO or LVIS format as Detectron2's dicts, built when they are read.

    Args:
        json_file: the annotations, see :func:`register_longtail_instances`.
        image_root: folder of the images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see :func:`register_longtail_instances`.
    """
    table = read_annotations(json_file)
    return table.records(image_paths(table.images, image_root))


def image_paths(
    images: Sequence[Mapping[str, Any]], image_root: str | Path
) -> Callable[[Mapping[str, Any]], str]:
    """Find out which field of an annotation file has the paths of images below ``image_root``.

    Candidates are ``file_name``, the last two parts and the last part of ``coco_url``. The first
    one is taken by which at least one of 20 images, spread over all, is found. If there is none,
    each image has the first candidate that its entry has.

    Returns:
        A function from an entry to the path.
    """
    ways = (_by_file_name, _by_folder_of_url, _by_end_of_url)
    some = images[:: max(1, len(images) // _IMAGES_LOOKED_FOR)]

    def found(way: Callable[[Mapping[str, Any]], str]) -> bool:
        return any(p and os.path.exists(os.path.join(image_root, p)) for p in map(way, some))

    best = sorted(ways, key=lambda way: not found(way))  # a stable order
    return lambda image: os.path.join(image_root, next(filter(None, (way(image) for way in best))))


def _by_file_name(image: Mapping[str, Any]) -> str:
    return image.get("file_name") or ""


def _by_folder_of_url(image: Mapping[str, Any]) -> str:
    return "/".join((image.get("coco_url") or "").split("/")[-2:])


def _by_end_of_url(image: Mapping[str, Any]) -> str:
    return (image.get("coco_url") or "").split("/")[-1]


class FileMetadata(Metadata):
    """Detectron2's metadata with fields that are read from annotation files on first access.

    A later change of the files is not noticed.
    """

    def __getattr__(self, key: str) -> Any:
        if key in _FROM_THE_FILE:
            self._set_categories(read_categories(self.json_file))
            return self.__dict__[key]
        if key == "class_image_count":
            counts = _class_image_count(self.json_file, self.counts_from)
            self.__dict__[key] = counts
            return counts
        return super().__getattr__(key)

    def records(self, *, for_training: bool = False) -> Records:
        """Read the images, and set the fields that follow from the categories."""
        table = read_annotations(self.json_file, for_training=for_training)
        self._set_categories(table.categories)  # spares reading them again
        return table.records(image_paths(table.images, self.image_root))

    def _set_categories(self, categories: Sequence[Mapping[str, Any]]) -> None:
        self.__dict__["thing_classes"] = [c["name"] for c in categories]
        self.__dict__["thing_dataset_id_to_contiguous_id"] = {
            c["id"]: index for index, c in enumerate(categories)
        }


def _class_image_count(json_file: str, counts_from: str | None) -> list[dict[str, Any]]:
    categories = read_categories(json_file)
    if counts_from is None and categories and all("image_count" in c for c in categories):
        return [{"id": c["id"], "image_count": c["image_count"]} for c in categories]
    source = json_file if counts_from is None else _training_file(counts_from)
    images = counts_by_category(categories, file_image_counts(source), json_file, source)
    return [{"id": c["id"], "image_count": images[c["id"]]} for c in categories]


def _training_file(counts_from: str) -> str:
    if counts_from in DatasetCatalog.list():
        json_file = MetadataCatalog.get(counts_from).get("json_file")
        if json_file:
            return json_file
    if os.path.isfile(counts_from):
        return counts_from
    near = did_you_mean(counts_from, DatasetCatalog.list())
    raise ValueError(
        f"counts_from must be a registered dataset with annotations or a JSON file, "
        f"got {counts_from!r}{near}"
    )


def _check_metadata(metadata: Mapping[str, Any], counts_from: str | Path | None) -> None:
    own = [k for k in (*_FROM_THE_FILE, "json_file", "image_root", "name") if k in metadata]
    if own:
        raise ValueError(f"metadata must leave out {', '.join(own)}: registration sets it")
    if counts_from is not None and "class_image_count" in metadata:
        raise ValueError("give counts_from or the class_image_count of the metadata, not both")


def _check_same(name: str, given: Mapping[str, Any]) -> None:
    known = MetadataCatalog.get(name).as_dict()
    other = {key: known.get(key) for key in given if known.get(key) != given[key]}
    if other:
        asked = {key: given[key] for key in other}
        raise ValueError(f"dataset {name!r} is already registered with {other}, not {asked}")


def datasets_root() -> Path:
    """Return the folder of all datasets, ``$DETECTRON2_DATASETS``, as Detectron2 does."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


def check_dataset_files(names: str | Iterable[str]) -> None:
    """Refuse datasets that are not there, before a model is built or a file is read.

    Raises:
        ValueError: a name that is not registered, with the nearest one that is.
        FileNotFoundError: one message with every file and folder that is expected, and which of
            them are missing; for Cityscapes also label maps that have yet to be made.
    """
    names = [names] if isinstance(names, str) else list(names)
    places: list[Path] = []
    for name in names:
        if name not in DatasetCatalog.list():
            hint = did_you_mean(name, DatasetCatalog.list())
            raise ValueError(
                f"dataset {name!r} is not registered{hint or '.'} A dataset is registered by a "
                "Python config (--config-file my_config.py), or by the config.datasets.json beside "
                "a saved config.yaml"
            )
        places += [p for p in _expected_places(name) if p not in places]
    if all(place.exists() for place in places):
        _check_cityscapes_labels(names)
        return
    listing = "\n".join(
        f"  {'found  ' if place.exists() else 'MISSING'}  {place}" for place in places
    )
    sources = {how for key, how in _HOW_TO_GET.items() for name in names if name.startswith(key)}
    raise FileNotFoundError(
        f"data of {', '.join(names)} is not where it is expected:\n{listing}\n"
        f"DETECTRON2_DATASETS is {os.getenv('DETECTRON2_DATASETS', 'not set, so ./datasets')!r}"
        + "".join(f"\n{how}" for how in sorted(sources))
    )


def _expected_places(name: str) -> list[Path]:
    metadata = MetadataCatalog.get(name)
    files = [metadata.get(key) for key in ("json_file", "list_file")]
    places = [Path(file) for file in files if file]
    # Detectron2 names the folders of Cityscapes by the last two of these keys.
    roots = [metadata.get(key) for key in ("image_root", "sem_seg_root", "image_dir", "gt_dir")]
    folders = _LVIS_V1_FOLDERS.get(name) or metadata.get("subfolders") or ("",)
    return places + [Path(root) / folder for root in roots if root for folder in folders]


def _check_cityscapes_labels(names: Iterable[str]) -> None:
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type") != "cityscapes_sem_seg":
            continue
        labels = Path(metadata.gt_dir)
        if next(labels.glob(f"*/{_CITYSCAPES_LABELS}"), None) is None:
            raise FileNotFoundError(
                f"data of {name} has no {_CITYSCAPES_LABELS} in the folders of {labels}; make them "
                f"with cityscapesscripts (pip install cityscapesscripts):\n"
                f"CITYSCAPES_DATASET={labels.parent.parent} csCreateTrainIdLabelImgs"
            )


def load_dataset(
    names: str | Sequence[str], *, filter_empty: bool = True
) -> Sequence[dict[str, Any]]:
    """Load registered datasets as dicts in Detectron2's format.

    Args:
        names: one or several registered names.
        filter_empty: leave out images without objects, as for training.

    Returns:
        Detectron2's list. For one dataset of :func:`register_longtail_instances`, a sequence of the
        same dicts that are built when they are read: changes of a dict are not kept.

    Raises:
        ValueError, FileNotFoundError: as :func:`check_dataset_files`; also a folder of images that
            the annotations name and that is missing.
    """
    check_dataset_files(names)
    single = [names] if isinstance(names, str) else names
    metadata = MetadataCatalog.get(single[0])
    if len(single) == 1 and isinstance(metadata, FileMetadata):
        dataset: Any = _load_records(metadata, filter_empty)
        files = dataset.file_names()
    else:
        try:
            dataset = get_detection_dataset_dicts(names, filter_empty=filter_empty)
        except AssertionError as error:  # Detectron2's, of a dataset without images
            raise ValueError(f"no image of {names} can be used: {error}") from error
        files = [image["file_name"] for image in dataset if "file_name" in image]
    folders = set(map(os.path.dirname, files))
    missing = sorted(folder for folder in folders if not os.path.isdir(folder))
    if missing:
        raise FileNotFoundError(
            f"the annotations of {names} name images in folders that do not exist: {missing}"
        )
    return dataset


def _load_records(metadata: FileMetadata, filter_empty: bool) -> Records:
    """Do what ``get_detection_dataset_dicts`` does, without building all dicts."""
    records = metadata.records(for_training=filter_empty)
    if filter_empty:
        number, records = len(records), records.with_objects()
        message = "Removed %d images with no usable annotations. %d images left."
        logger.info(message, number - len(records), len(records))
    if not records:
        raise ValueError(f"{metadata.json_file} lists no images")
    _print_histogram(records, metadata.thing_classes)
    return records


def _print_histogram(records: Records, names: Sequence[str]) -> None:
    """Print Detectron2's histogram, from one dict, because each dict of a dataset costs time."""
    if not logging.getLogger("detectron2.data.build").isEnabledFor(logging.INFO):
        return
    _, classes = records.image_and_class(with_crowds=False)
    numbers = np.bincount(classes, minlength=len(names)).tolist()
    annotations = [{"category_id": c} for c in range(len(names))]
    repeated = itertools.chain.from_iterable(map(itertools.repeat, annotations, numbers))
    print_instances_class_histogram([{"annotations": list(repeated)}], names)
