"""Detectron2's checkpointer, except that weights which do not fit are an error.

The names of a model's classes travel with its weights. Names that come from elsewhere, such as from
the data set that is registered where a model is used, are those of other classes as soon as
anything differs.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.checkpoint.pretrained import (
    convert_resnest,
    convert_torchvision_resnet,
    is_resnest,
    is_torchvision_resnet,
)

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


class StrictCheckpointer(DetectionCheckpointer):
    """Loads a checkpoint that fits the model, and refuses one that does not.

    Detectron2 leaves out what does not fit with a warning, so that a model with random heads is
    trained, or scored near 0 AP. Torchvision's ResNet weights are converted on the way, and those
    of ResNeSt under timm's and mmdet's names.

    A model that goes on from another one and adds to it, such as
    :class:`~d2_seesaw.modeling.DualHeadRCNN`, says what it adds in ``added_keys``. It has to start
    from a checkpoint that lacks these keys, all of them or none, and no other.

    Args:
        model: maybe wrapped in DDP.
        save_dir: folder of this run's checkpoints.
        require_all: also refuse a checkpoint that lacks weights of the model, as for evaluation;
            without it, pretrained backbones are fine.
        allow_partial: warn instead, as Detectron2 does.
        metadata: saved beside the weights under that name, see
            :func:`~d2_seesaw.checkpoint.class_metadata`. Plain values only, so that the file loads
            without running code. ``load`` returns that of the file, as it does with all extras.
        checkpointables: what else is saved and resumed, such as the trainer.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        require_all: bool = False,
        allow_partial: bool = False,
        metadata: Mapping[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.metadata = dict(metadata or {})
        self.require_all = require_all
        self.allow_partial = allow_partial

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: file or URL; if empty, nothing is loaded.
            checkpointables: names of what else is loaded from it; None is all there is.

        Raises:
            ValueError: what does not fit, all of it in one message; no ``path`` for a model that
                goes on from another one.
        """
        if not path and _added_keys(self.model):
            raise ValueError(
                f"{type(self.model).__name__} goes on from a trained model: give its checkpoint, "
                "train.init_checkpoint=MODEL.pth"
            )
        return super().load(path, checkpointables)

    def save(self, name: str, **kwargs: Any) -> None:
        """As the base class, with the metadata."""
        extras = {METADATA: self.metadata} if self.metadata else {}
        super().save(name, **extras, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = super()._load_file(filename)
        if is_torchvision_resnet(loaded["model"]):
            loaded["model"] = convert_torchvision_resnet(loaded["model"], self.model.state_dict())
        elif is_resnest(state := loaded["model"].get("state_dict", loaded["model"])):
            loaded["model"] = convert_resnest(state, self.model.state_dict())
        return loaded

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        if self.allow_partial:
            super()._log_incompatible_keys(incompatible)
            return
        problems = [
            f"  {key}: {given} in the checkpoint, {expected} in the model"
            for key, given, expected in incompatible.incorrect_shapes
        ]
        misshaped = {key for key, _, _ in incompatible.incorrect_shapes}
        missing = [key for key in incompatible.missing_keys if key not in misshaped]
        may_miss = self._may_miss(missing)
        problems += [
            f"  {key}: missing in the checkpoint" for key in missing if key not in may_miss
        ]
        if problems:
            raise ValueError(
                "the checkpoint does not fit the model"
                + _number_of_classes(incompatible.incorrect_shapes)
                + ":\n"
                + "\n".join(problems)
                + "\ntrain.allow_partial_checkpoint=True loads what fits and leaves the rest as it "
                "was initialised"
            )
        super()._log_incompatible_keys(incompatible)

    def _may_miss(self, missing: list[str]) -> Set[str]:
        if self.require_all:
            return set()
        added = _added_keys(self.model)
        if not added:
            return set(missing)
        return added if added.issubset(missing) else set()


def _added_keys(model: nn.Module) -> frozenset[str]:
    return getattr(model, "added_keys", frozenset())


def _number_of_classes(incorrect_shapes: list[tuple[str, tuple, tuple]]) -> str:
    """A likely reason in words: another number of classes, read off the class counts or logits."""
    for key, given, expected in incorrect_shapes:
        if key.endswith("class_counts"):
            return f": it was trained with {given[0] - 1} classes, the model has {expected[0] - 1}"
        if "mask_head" in key and key.endswith("predictor.bias"):
            return f": it was trained with {given[0]} classes, the model has {expected[0]}"
    return ""
