"""Layers of a detector whose outputs belong to classes, and the state of its losses.

Detectron2's layers are found by the type of the module that has them. Modules of this project that
are not derived from these list theirs in ``class_outputs``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import Tensor, nn

from d2_seesaw.checkpoint.contents import NORMALIZED
from d2_seesaw.layers.normed import NormedConv2d, NormedLinear

BACKGROUND, OBJECT, OTHERS = "background", "object", "others"


@dataclass(frozen=True)
class ClassLayer:
    """A layer with outputs for classes.

    Attributes:
        name: prefix of its tensors in the state dict, without the last dot.
        module: the layer.
        outputs: number of outputs for each class; 0 for a classifier, whose loss adds others.
    """

    name: str
    module: nn.Module
    outputs: int

    @property
    def is_classifier(self) -> bool:
        """Whether outputs that are not classes, such as background, follow those of the classes."""
        return self.outputs == 0


def class_layers(model: nn.Module) -> list[ClassLayer]:
    """Return the layers of a detector with outputs for its classes; not those of pixel classes."""
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        for name, outputs in _outputs(module).items():
            if isinstance(layer := getattr(module, name, None), nn.Module):
                found.append(ClassLayer(f"{path}.{name}" if path else name, layer, outputs))
    return found


def _outputs(module: nn.Module) -> Mapping[str, int]:
    """Return the number of outputs for each class, by the names of the layers of a module."""
    if isinstance(module, FastRCNNOutputLayers):
        return {"cls_score": 0, "bbox_pred": len(module.box2box_transform.weights)}
    if isinstance(module, MaskRCNNConvUpsampleHead):
        return {"predictor": 1}
    found: Any = getattr(module, "class_outputs", {})
    return found


def loss_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the state of classification losses, such as class counts."""
    paths = (path for path, _ in model.named_modules(remove_duplicate=False))
    return tuple(f"{path}." for path in paths if path.rpartition(".")[2] == "cls_loss")


def is_normalized(layer: nn.Module) -> bool:
    """Return whether a layer divides its weights by their norms."""
    return isinstance(layer, NormedLinear | NormedConv2d)


def normalized_layers(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of the layers of classes with normalized weights, for the metadata.

    Their tensors have the names and shapes of plain layers. Models without layers of classes get no
    entry.
    """
    layers = class_layers(model)
    names = [layer.name for layer in layers if is_normalized(layer.module)]
    return {NORMALIZED: names} if layers else {}


def roles(number: int) -> Iterator[str]:
    """Yield the roles of the last ``number`` outputs of a classifier, which are not classes."""
    if number > 1:
        yield from [OTHERS] * (number - 2)
        yield OBJECT
    yield BACKGROUND


def rows_of(layer: ClassLayer, weights: Mapping[str, Tensor]) -> int:
    """Return the number of outputs that a layer has in a checkpoint, 0 if it has no such layer."""
    weight = weights.get(f"{layer.name}.weight")
    return 0 if weight is None or not weight.dim() else len(weight)
