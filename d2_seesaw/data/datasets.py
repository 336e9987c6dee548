"""Data sets by name: registered once, checked before anything expensive starts, loaded once.

LVIS v1, COCO, Cityscapes and ADE20K are registered by Detectron2 itself; the generated quickstart
data is registered here, in the same layout below ``$DETECTRON2_DATASETS`` (``./datasets`` if
unset). One's own data are registered by ``longtail_datasets.py``, folders for semantic segmentation
by ``semantic_datasets.py``.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from d2_seesaw.data.catalog import register_longtail_instances

# Detectron2 finds images by the last two parts of their URL. Validation images of LVIS v1 lie in
# both folders.
_LVIS_V1_FOLDERS = {"lvis_v1_train": ("train2017",), "lvis_v1_val": ("train2017", "val2017")}

_CITYSCAPES_LABELS = "*_labelTrainIds.png"

_HOW_TO_GET = {
    "ade20k": "images: http://sceneparsing.csail.mit.edu, labels: "
    "datasets/prepare_ade20k_sem_seg.py of Detectron2",
    "cityscapes": "leftImg8bit and gtFine: https://www.cityscapes-dataset.com/downloads",
    "coco": "annotations and images: https://cocodataset.org",
    "lvis_v1": "annotations: https://www.lvisdataset.org/dataset, images: https://cocodataset.org",
    "quickstart": "generate it: python tools/generate_longtail.py",
    "semantic_quickstart": "generate it: python tools/generate_semantic.py",
    "synthia_rand": "SYNTHIA-RAND-CITYSCAPES: https://synthia-dataset.net/downloads, unpacked as "
    "RAND_CITYSCAPES",
    "synthia_seqs": "SYNTHIA-SEQS-05-SUMMER: https://synthia-dataset.net/downloads",
}


def datasets_root() -> Path:
    """The folder of all data sets, as Detectron2 finds it: ``$DETECTRON2_DATASETS``."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_lvis_format(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register instances in LVIS format under any name; its class names come from the file.

    The shortest form of :func:`~d2_seesaw.data.register_longtail_instances`, which says more.

    Raises:
        ValueError: ``name`` already stands for other files.
    """
    register_longtail_instances(name, None, json_file, image_root)


def register_quickstart() -> None:
    """Register ``quickstart_train`` and ``quickstart_val``, the data of ``make demo``."""
    root = datasets_root() / "quickstart"
    for split in ("train", "val"):
        register_lvis_format(f"quickstart_{split}", root / f"lvis_{split}.json", root)


def check_dataset_files(names: str | Iterable[str]) -> None:
    """Refuse data sets that are not there, before a model is built or a file is read.

    Raises:
        ValueError: a name that is not registered, with the nearest one that is.
        FileNotFoundError: one message with every file and folder that is expected, and which of
            them are missing; for Cityscapes also label maps that have yet to be made.
    """
    names = [names] if isinstance(names, str) else list(names)
    places: list[Path] = []
    for name in names:
        if name not in DatasetCatalog.list():
            near = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"data set {name!r} is not registered{hint}")
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
    places = [Path(metadata.json_file)] if metadata.get("json_file") else []
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


def load_dataset(names: str | Sequence[str], *, filter_empty: bool = True) -> list[dict[str, Any]]:
    """Load registered data sets as dicts in Detectron2's format.

    Args:
        names: one or several registered names.
        filter_empty: leave out images without objects, as for training.

    Raises:
        ValueError, FileNotFoundError: as :func:`check_dataset_files`; also a folder of images that
            the annotations name and that is missing.
    """
    check_dataset_files(names)
    dataset: Any = get_detection_dataset_dicts(names, filter_empty=filter_empty)
    folders = {os.path.dirname(image["file_name"]) for image in dataset if "file_name" in image}
    missing = sorted(folder for folder in folders if not os.path.isdir(folder))
    if missing:
        raise FileNotFoundError(
            f"the annotations of {names} name images in folders that do not exist: {missing}"
        )
    return dataset


register_quickstart()
