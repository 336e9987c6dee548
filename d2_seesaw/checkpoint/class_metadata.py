"""Class names of a model, which are saved with its weights.

Names from another source, such as the dataset registered where the model is used, may belong to
other classes.
"""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.checkpoint.contents import check_metadata
from d2_seesaw.checkpoint.safetensors_files import is_safetensors, read_safetensors_metadata

METADATA = "metadata"
"""Key of the class metadata in a checkpoint."""

CALIBRATION = "calibration"
"""Key of the calibration in a checkpoint, as ``Calibration.entry`` returns it."""


def class_metadata(names: str | Sequence[str], model: nn.Module) -> dict[str, Any]:
    """Return the class metadata that a checkpoint of ``model`` gets, as plain values.

    Args:
        names: one or several registered datasets with the same classes. Many know their class names
            only after they have been loaded.
        model: may be wrapped in DDP. Semantic segmentation has Detectron2's "stuff" classes, all
            other models have its "thing" classes.

    Returns:
        ``dataset``, the given names. If the dataset has class names, also ``class_names`` in the
        order of the model's classes, ``category_ids`` of these classes in annotations and results,
        and ``class_colors``, RGB in [0, 255], if it has colors. A dataset without ids numbers its
        things from 1 and its stuff from 0, as Detectron2 does.
    """
    names = [names] if isinstance(names, str) else list(names)
    found: dict[str, Any] = {"dataset": names[0] if len(names) == 1 else names}
    # MetadataCatalog.get would create a missing entry.
    known: Any = MetadataCatalog.get(names[0]) if names[0] in MetadataCatalog.list() else {}
    kind = "stuff" if is_semantic(model) else "thing"
    classes = known.get(f"{kind}_classes")
    if not classes:
        return found
    found["class_names"] = [str(name) for name in classes]
    found["category_ids"] = _category_ids(
        known.get(f"{kind}_dataset_id_to_contiguous_id"), len(classes), first=int(kind == "thing")
    )
    colors = known.get(f"{kind}_colors")
    if colors and len(colors) == len(classes):
        found["class_colors"] = [[int(channel) for channel in color] for color in colors]
    return found


def read_class_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the class metadata of a checkpoint without its weights.

    Returns:
        As :func:`class_metadata`; empty if the checkpoint has none, has another format, or is not a
        local file.
    """
    if is_safetensors(path) and os.path.isfile(path):
        try:
            return read_safetensors_metadata(path)
        except ValueError:  # loading the weights says more
            return {}
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, UnpicklingError):  # loading the weights says more
        return {}
    metadata = content.get(METADATA, {}) if isinstance(content, Mapping) else {}
    try:
        check_metadata(metadata)
    except ValueError:
        return {}
    return dict(metadata)


def _category_ids(
    mapping: Mapping[int | str, int] | None, count: int, *, first: int
) -> list[int | str]:
    by_class: dict[int, int | str] = {
        index: category if isinstance(category, str) else int(category)
        for category, index in (mapping or {}).items()
    }
    if by_class.keys() != set(range(count)):
        return list(range(first, first + count))
    return [by_class[index] for index in range(count)]


def check_class_names(metadata: Mapping[str, Any], model: nn.Module, origin: str) -> None:
    """Refuse class names that do not match the classes of ``model`` in number.

    Args:
        metadata: as :func:`class_metadata` returns it.
        model: not wrapped in DDP.
        origin: source of the names, for the message.

    Raises:
        ValueError: no names, or another number of them.
    """
    names, expected = metadata.get("class_names"), number_of_classes(model)
    if names is None:
        raise ValueError(f"{origin} has no class names, the model has {expected} classes")
    if len(names) != expected:
        raise ValueError(
            f"{origin} has {len(names)} class names ({', '.join(names[:3])}, ...), the model has "
            f"{expected} classes"
        )


def number_of_classes(model: nn.Module) -> int:
    """Return the number of classes of a Detectron2 model, without background."""
    if is_semantic(model):
        head: Any = model.sem_seg_head
        return head.predictor.out_channels
    part: Any = model if is_classifier(model) else model.roi_heads
    return part.num_classes


def is_semantic(model: nn.Module) -> bool:
    """Return whether ``model`` is a ``SemanticSegmentor``, also if wrapped in DDP."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    return isinstance(model, SemanticSegmentor)


def is_classifier(model: nn.Module) -> bool:
    """Return whether ``model`` classifies whole images, also if wrapped in DDP."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    return hasattr(model, "classifier") and not hasattr(model, "roi_heads")
