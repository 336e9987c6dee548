"""The names of a model's classes, which travel with its weights.

Names that come from elsewhere, such as from the data set that is registered where a model is used,
are those of other classes as soon as anything differs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import nn
from torch.nn.parallel import DistributedDataParallel

METADATA = "metadata"
"""Key of the class metadata in a checkpoint."""


def class_metadata(names: str | Sequence[str], model: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of the classes of ``model``, as plain values.

    Args:
        names: one or several registered data sets of the same classes. Many know their class names
            only once they have been loaded.
        model: maybe wrapped in DDP. Semantic segmentation has Detectron2's "stuff" classes, all
            other models have its "thing" classes.

    Returns:
        ``dataset``, the names given; and if the data set has class names, ``class_names`` in the
        order of the model's classes, ``category_ids`` of the same classes in annotations and
        results, and ``class_colors``, RGB in [0, 255], if it has them. Without ids of its own, a
        data set counts its things from 1 and its stuff from 0, as Detectron2 does.
    """
    names = [names] if isinstance(names, str) else list(names)
    found: dict[str, Any] = {"dataset": names[0] if len(names) == 1 else names}
    # MetadataCatalog.get creates what it does not find.
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
    """Refuse class names that cannot be those of ``model``.

    Args:
        metadata: as :func:`class_metadata` returns it.
        model: not wrapped.
        origin: where the names are from, for the message.

    Raises:
        ValueError: no names, or not as many as the model has classes.
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
    """How many classes a model of Detectron2 tells apart, background not among them."""
    if is_semantic(model):
        head: Any = model.sem_seg_head
        return head.predictor.out_channels
    heads: Any = model.roi_heads
    return heads.num_classes


def is_semantic(model: nn.Module) -> bool:
    """Whether it is a ``SemanticSegmentor``, maybe wrapped in DDP."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    return isinstance(model, SemanticSegmentor)
