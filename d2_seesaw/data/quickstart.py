"""Registration of the generated datasets of the demos.

They are stored like other datasets, under ``$DETECTRON2_DATASETS`` (``./datasets`` if unset).
Importing this module registers them; :mod:`d2_seesaw.synthetic` generates them.
"""

from d2_seesaw.data.catalog import datasets_root, register_longtail_instances
from d2_seesaw.data.classification.image_lists import register_image_list, register_imagenet_lt
from d2_seesaw.data.semantic.folders import register_semantic_folder

CLASSES = (
    "sky",
    "road",
    "building",
    "sidewalk",
    "tree",
    "car",
    "person",
    "pole",
    "sign",
    "light",
    "taxi",
    "animal",
)
"""Classes of the street scenes."""

INSTANCES = ("quickstart_train", "quickstart_val")
"""Datasets of instances that are always registered."""


def register_quickstart() -> None:
    """Register ``quickstart_train`` and ``quickstart_val``, the data of ``make demo``."""
    root = datasets_root() / "quickstart"
    for name, split in zip(INSTANCES, ("train", "val"), strict=True):
        json_file = root / f"lvis_{split}.json"
        register_longtail_instances(name, json_file=json_file, image_root=root)


def register_semantic_quickstart() -> None:
    """Register ``semantic_quickstart_train`` and ``_val``, the generated street scenes."""
    root = datasets_root() / "semantic_quickstart"
    for part in ("train", "val"):
        register_semantic_folder(
            f"semantic_quickstart_{part}",
            root / "images" / part,
            root / "labels" / part,
            classes=CLASSES,
        )


def register_classification_quickstart() -> None:
    """Register ``classification_quickstart_train`` and ``_val``, the generated pictures."""
    root = datasets_root() / "classification_quickstart"
    for part in ("train", "val"):
        register_image_list(
            f"classification_quickstart_{part}",
            root / f"{part}.txt",
            root,
            counts_from=None if part == "train" else "classification_quickstart_train",
        )


register_quickstart()
register_semantic_quickstart()
register_classification_quickstart()
register_imagenet_lt()
