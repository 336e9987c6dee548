"""Detectron2's checkpointer, except that weights which do not fit are an error."""

from collections.abc import Mapping, Set
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from d2_seesaw.checkpoint.class_names import METADATA
from d2_seesaw.checkpoint.pretrained import convert_torchvision_resnet, is_torchvision_resnet
from d2_seesaw.checkpoint.resnest import convert_resnest, is_resnest


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
