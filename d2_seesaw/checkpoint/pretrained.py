"""Conversion of pretrained backbones, by rules on the names that account for every tensor.

Torchvision's weights are the subject of :mod:`d2_seesaw.checkpoint.torchvision_weights`.

ResNeSt weights come from timm, from its authors or from mmdet. The authors use timm's names; mmdet
numbers the layers of the stem consecutively and prefixes ``backbone.``.

Weights of plain vision transformers come from MAE, and of Swin Transformers from their authors,
both under the names that Detectron2's modules have. Position embeddings of another image size are
resized. Detectron2 would match the names by their ends, which fits wrong tensors of equal shape.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_seesaw.checkpoint.torchvision_weights import (
    PREFIX,
    convert_torchvision_classifier,
    convert_torchvision_resnet,
    is_torchvision_classifier,
    is_torchvision_resnet,
    torchvision_prefix,
)

# mmdet's stem.{0,1,3,4,6,7} -> timm's conv1.{0,1,3,4,6} and bn1, applied in this order.
RESNEST_RULES = (
    (r"^backbone\.", ""),
    (r"^stem\.7\.", "bn1."),
    (r"^stem\.(\d)\.", r"conv1.\1."),
)
RESNEST_SIGN = "layer1.0.conv2.fc1.weight"
# Detectors have no classifier; ImageNet models have no offsets of deformable convolutions.
RESNEST_UNUSED = re.compile(r"^fc\.|\.num_batches_tracked$")
RESNEST_NEW = re.compile(r"\.conv_offset\.|\.num_batches_tracked$")

VIT_SIGN = "blocks.0.attn.qkv.weight"
VIT_POSITIONS = "pos_embed"
# The class token's feature and classifiers are not used; MAE has a decoder and a fixed mask token.
VIT_UNUSED = re.compile(r"^(cls_token|mask_token|norm\.|fc_norm\.|head\.|decoder_)")
# ViTDet has relative positions, too, which start at zero.
VIT_NEW = re.compile(r"\.attn\.rel_pos_[hw]$")

SWIN_SIGN = "layers.0.blocks.0.attn.relative_position_bias_table"
# Swin's last norm is its classifier's; the masks follow from the image's size.
SWIN_UNUSED = re.compile(r"^(norm\.|head\.)|\.attn_mask$")
# Detectron2 has a norm on each of the four feature maps.
SWIN_NEW = re.compile(r"^norm[0-3]\.")

# Detectron2's federated loss and this project's.
FEDERATED_WEIGHTS = ".fed_loss_cls_weights"
FEDERATED_COUNTS = ".cls_loss.training_split.counts"


def is_resnest(state: Mapping[str, object]) -> bool:
    """Return whether ``state`` is a ResNeSt without a detector, judged by its names."""
    return RESNEST_SIGN in {_resnest_name(key) for key in state} and not any(
        key.startswith(("neck.", "rpn_head.", "roi_head.")) for key in state
    )


def convert_resnest(state: Mapping[str, Tensor], model_keys: Iterable[str]) -> dict[str, Tensor]:
    """Rename ResNeSt weights to those of the timm backbone inside a model.

    Args:
        state: the state dict of timm, of the authors or of mmdet, with or without a classifier.
        model_keys: keys of the model's state dict; the backbone is found among them.

    Raises:
        ValueError: the model has no ResNeSt, or one of another depth; the message lists all keys
            without a counterpart.
    """
    model_keys = set(model_keys)
    prefixes = [key.removesuffix(RESNEST_SIGN) for key in model_keys if key.endswith(RESNEST_SIGN)]
    if len(prefixes) != 1:
        raise ValueError(f"expected one ResNeSt of timm in the model, found them at {prefixes}")
    (prefix,) = prefixes
    renamed = {_resnest_name(key): value for key, value in state.items()}
    converted = {prefix + key: v for key, v in renamed.items() if not RESNEST_UNUSED.search(key)}
    expected = {key for key in model_keys if key.startswith(prefix)}
    missing = sorted(key for key in expected - converted.keys() if not RESNEST_NEW.search(key))
    unused = sorted(converted.keys() - expected)
    if missing or unused:
        raise ValueError(
            "the ResNeSt weights belong to another ResNeSt than the model's. "
            f"In the model only: {missing}; in the weights only: {unused}"
        )
    return converted


def _resnest_name(key: str) -> str:
    for pattern, replacement in RESNEST_RULES:
        key = re.sub(pattern, replacement, key)
    return key


def is_vit(state: Mapping[str, object]) -> bool:
    """Return whether ``state`` is a plain vision transformer alone, such as MAE's, by its names."""
    return {VIT_SIGN, VIT_POSITIONS, "patch_embed.proj.weight"} <= state.keys()


def convert_vit(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename weights of MAE to those of Detectron2's ``ViT`` inside a model.

    Position embeddings are resized by bicubic interpolation, as ``ViT`` does it for an image, if
    the model expects another number of them.

    Args:
        state: MAE's state dict, with or without class token and decoder.
        model_state: state dict of the model; the backbone is found in it.

    Raises:
        ValueError: the model has no such backbone, or one of another depth; the message lists all
            keys without a counterpart.
    """
    prefix = _prefix_of(VIT_SIGN, model_state, "plain ViT")
    converted = _under(prefix, state, VIT_UNUSED, model_state)
    _check_names(converted, model_state, prefix, VIT_NEW, "ViT")
    positions = prefix + VIT_POSITIONS
    number = model_state[positions].shape[1]
    converted[positions] = _resized_positions(torch.as_tensor(converted[positions]), number)
    return converted


def _resized_positions(positions: Tensor, number: int) -> Tensor:
    """Resize ``(1, 1 + s * s, C)`` position embeddings, the class token's first, to ``number``."""
    if positions.shape[1] == number:
        return positions
    old, new = (round((n - 1) ** 0.5) for n in (positions.shape[1], number))
    if (old**2 + 1, new**2 + 1) != (positions.shape[1], number):
        raise ValueError(
            f"pos_embed has {positions.shape[1]} positions and the model {number}: these are not "
            "two squares with a class token each, so they cannot be resized"
        )
    square = positions[:, 1:].unflatten(1, (old, old)).movedim(3, 1)
    square = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], square.flatten(2).mT], dim=1)


def is_swin(state: Mapping[str, object]) -> bool:
    """Return whether ``state`` is a Swin Transformer without a detector, judged by its names."""
    return {SWIN_SIGN, "patch_embed.proj.weight"} <= state.keys()


def convert_swin(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename weights of Swin's authors to those of Detectron2's ``SwinTransformer`` in a model.

    Args:
        state: the authors' state dict, with or without a classifier.
        model_state: state dict of the model; the backbone is found in it.

    Raises:
        ValueError: the model has no such backbone, or one of another depth; the message lists all
            keys without a counterpart.
    """
    prefix = _prefix_of(SWIN_SIGN, model_state, "Swin Transformer of Detectron2")
    converted = _under(prefix, state, SWIN_UNUSED, model_state)
    _check_names(converted, model_state, prefix, SWIN_NEW, "Swin Transformer")
    return converted


def _prefix_of(sign: str, model_keys: Iterable[str], what: str) -> str:
    """Return the prefix of the backbone that has the key ``sign``."""
    prefixes = [key.removesuffix(sign) for key in model_keys if key.endswith(f".{sign}")]
    if len(prefixes) != 1:
        raise ValueError(f"expected one {what} in the model, found them at {prefixes}")
    return prefixes[0]


def _under(
    prefix: str,
    state: Mapping[str, Tensor],
    unused: re.Pattern[str],
    model_keys: Container[str],
) -> dict[str, Tensor]:
    """Prefix all keys, and drop the unused ones that the model does not have."""
    prefixed = {prefix + key: (key, value) for key, value in state.items()}
    return {
        name: value
        for name, (key, value) in prefixed.items()
        if name in model_keys or not unused.search(key)
    }


def _check_names(
    converted: Mapping[str, Tensor],
    model_keys: Iterable[str],
    prefix: str,
    new: re.Pattern[str],
    what: str,
) -> None:
    """Check that the converted keys are those of the backbone, except for the new ones."""
    expected = {key for key in model_keys if key.startswith(prefix)}
    missing = sorted(
        key for key in expected - converted.keys() if not new.search(key.removeprefix(prefix))
    )
    unused = sorted(converted.keys() - expected)
    if missing or unused:
        raise ValueError(
            f"the weights belong to another {what} than the model's. "
            f"In the model only: {missing}; in the weights only: {unused}"
        )


def is_detectron2_federated(state: Mapping[str, object]) -> bool:
    """Return whether ``state`` is of a Detectron2 model with its federated loss, by its names."""
    return any(key.endswith(FEDERATED_WEIGHTS) for key in state)


def convert_detectron2_federated(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Convert the class weights of Detectron2's federated loss to those of ``FederatedLoss``.

    Detectron2 saves the square roots of the numbers of training images, in its LVIS recipes, and
    ``FederatedLoss`` the numbers. A model with Detectron2's own loss keeps its weights.

    Args:
        state: Detectron2's state dict.
        model_state: state dict of the model.
    """
    converted = {}
    for key, value in state.items():
        if key.endswith(FEDERATED_WEIGHTS) and key not in model_state:
            key = key.removesuffix(FEDERATED_WEIGHTS) + FEDERATED_COUNTS
            value = torch.as_tensor(value).double().square().round().long()
        converted[key] = value
    return converted


Recognizer = Callable[[Mapping[str, Any]], bool]
Converter = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]

CONVERTERS: tuple[tuple[Recognizer, Converter], ...] = (
    (is_torchvision_resnet, convert_torchvision_resnet),
    (is_torchvision_classifier, convert_torchvision_classifier),
    (is_resnest, convert_resnest),
    (is_swin, convert_swin),
    (is_vit, convert_vit),
    (is_detectron2_federated, convert_detectron2_federated),
)
"""Pairs of recognizer and converter of a state dict; the first recognizer that matches decides."""


def is_backbone_address(weights: str) -> bool:
    """Return whether an address is that of a backbone alone: a classifier of ImageNet."""
    starts = (PREFIX, "https://download.pytorch.org/models/")
    return weights.startswith(starts) or "ImageNetPretrained/" in weights


def convert_pretrained(
    loaded: dict[str, Any], model_state: Mapping[str, Tensor], *, partial: bool = False
) -> dict[str, Any]:
    """Rename the weights of a pretrained backbone, if one of :data:`CONVERTERS` recognizes them.

    Weights that have the model's own names are returned as they are.

    Args:
        loaded: a state dict, or a checkpoint of mmdet with one in ``state_dict``.
        model_state: the model's state dict.
        partial: leave out weights of torchvision's ResNets without a counterpart.

    Raises:
        ValueError: the backbone does not fit the model.
    """
    if loaded.keys() <= set(model_state):
        return loaded  # weights of this model, whatever its names look like
    state = loaded.get("state_dict", loaded)
    if torchvision_prefix(state, model_state) is not None:
        return convert_torchvision_classifier(state, model_state, partial=partial)
    if partial and is_torchvision_resnet(state):
        return convert_torchvision_resnet(state, model_state, partial=True)
    for recognizes, convert in CONVERTERS:
        if recognizes(state):
            return convert(state, model_state)
    return loaded
