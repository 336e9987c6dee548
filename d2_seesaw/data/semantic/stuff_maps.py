"""Instance datasets whose images also have label maps, for models with a semantic branch.

COCO's are the maps of COCO-Stuff (https://github.com/nightrome/cocostuff,
stuffthingmaps_trainval2017.zip): classes 0 to 181 of things and stuff, 255 for unlabeled pixels.
"""

from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from d2_seesaw.data.catalog import datasets_root

_NOT_COPIED = ("name", "instances", "sem_seg_root")


class _MetadataOfInstances(Metadata):
    """Metadata that looks up what it lacks in those of the instance dataset."""

    def __getattr__(self, key: str) -> Any:
        instances = self.__dict__.get("instances")
        if instances is None or key in _NOT_COPIED or key.startswith("__"):
            return super().__getattr__(key)
        return getattr(MetadataCatalog.get(instances), key)


def register_label_maps(name: str, instances: str, label_root: str | Path) -> None:
    """Register the images and instances of a dataset together with label maps. Nothing is read.

    Each image's record gets ``sem_seg_file_name``, the file in ``label_root`` that has the image's
    name, without its folders, and the suffix ``.png``. The maps are 8-bit grayscale images of
    classes, with 255 for pixels without a class, as ``DatasetMapper`` reads them.

    Args:
        name: name of the new dataset in Detectron2's catalogs. Registering the same again changes
            nothing.
        instances: name of the dataset, which may be registered later.
        label_root: folder of the label maps.

    Raises:
        ValueError: ``name`` is registered with other arguments.
    """
    given = {"instances": instances, "sem_seg_root": str(label_root)}
    if name in DatasetCatalog.list():
        known = {key: MetadataCatalog.get(name).get(key) for key in given}
        if known != given:
            raise ValueError(f"dataset {name!r} is already registered with {known}, not {given}")
        return

    def load() -> list[dict[str, Any]]:
        return [
            {**record, "sem_seg_file_name": str(_label_file(label_root, record["file_name"]))}
            for record in DatasetCatalog.get(instances)
        ]

    DatasetCatalog.register(name, load)
    MetadataCatalog[name] = _MetadataOfInstances(name=name, **given)


def _label_file(label_root: str | Path, image: str) -> Path:
    return Path(label_root) / f"{Path(image).stem}.png"


def register_coco_stuffthingmaps() -> None:
    """Register ``coco_2017_train_stuffthingmaps`` and ``coco_2017_val_stuffthingmaps``."""
    root = datasets_root() / "coco" / "stuffthingmaps"
    for part in ("train", "val"):
        name = f"coco_2017_{part}"
        register_label_maps(f"{name}_stuffthingmaps", name, root / f"{part}2017")


register_coco_stuffthingmaps()
