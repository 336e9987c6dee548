"""Conversion of pretrained backbones, by rules on the names that account for every tensor.

A config names torchvision's weights ``torchvision://ResNet50_Weights.IMAGENET1K_V1``, as
torchvision does. The model must then take RGB input and have the stride in the 3x3 convolutions.

ResNeSt weights come from timm, from its authors or from mmdet. The authors use timm's names; mmdet
numbers the layers of the stem consecutively and prefixes ``backbone.``.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from torch import Tensor

PREFIX = "torchvision://"

# torchvision's name -> Detectron2's, applied in this order.
RULES = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
UNUSED = re.compile(r"^fc\.|\.num_batches_tracked$")

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


def is_torchvision_resnet(state: Mapping[str, object]) -> bool:
    """Return whether ``state`` is a torchvision ResNet, judged by its names."""
    return {"conv1.weight", "bn1.weight", "layer4.0.conv1.weight"} <= state.keys()


def convert_torchvision_resnet(
    state: Mapping[str, Tensor], model_keys: Iterable[str], *, partial: bool = False
) -> dict[str, Tensor]:
    """Rename torchvision's ResNet weights to those of the ResNet inside a Detectron2 model.

    Args:
        state: torchvision's state dict.
        model_keys: keys of the model's state dict; the backbone is found among them.
        partial: leave out weights without a counterpart instead of raising an error.

    Raises:
        ValueError: the model has no ResNet, or one of another depth or kind; the message lists all
            keys without a counterpart.
    """
    model_keys = set(model_keys)
    stems = [key for key in model_keys if key.endswith("stem.conv1.weight")]
    if len(stems) != 1:
        raise ValueError(f"expected one Detectron2 ResNet in the model, found stems {stems}")
    prefix = stems[0].removesuffix("stem.conv1.weight")
    converted = {
        prefix + _rename(key): value for key, value in state.items() if not UNUSED.search(key)
    }
    expected = {key for key in model_keys if key.startswith(prefix) and not UNUSED.search(key)}
    missing, unused = sorted(expected - converted.keys()), sorted(converted.keys() - expected)
    if partial:
        return {key: value for key, value in converted.items() if key in expected}
    if missing or unused:
        raise ValueError(
            "torchvision's weights belong to another ResNet than the model's. "
            f"In the model only: {missing}; in the weights only: {unused}"
        )
    return converted


def _rename(key: str) -> str:
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key


class TorchvisionHandler(PathHandler):
    """Handler of ``torchvision://`` names, which downloads a file once, into torch's hub cache."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        from torchvision.models import get_weight

        name = path.removeprefix(PREFIX)
        try:
            url = get_weight(name).url
        except (AttributeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: torchvision has no weights {name!r}; expected a name such as "
                "ResNet50_Weights.IMAGENET1K_V1"
            ) from error
        cached = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
        if not os.path.isfile(cached):
            os.makedirs(os.path.dirname(cached), exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, cached)
            except OSError as error:
                raise FileNotFoundError(
                    f"cannot download {url} ({error}); put that file at {cached}, or give another "
                    "train.init_checkpoint"
                ) from error
        return cached

    def _isfile(self, path: str, **kwargs: object) -> bool:
        return True

    def _exists(self, path: str, **kwargs: object) -> bool:
        return True

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object):
        return open(self._get_local_path(path), mode, buffering=buffering)


PathManager.register_handler(TorchvisionHandler(), allow_override=True)


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


Recognizer = Callable[[Mapping[str, Any]], bool]
Converter = Callable[[Mapping[str, Tensor], Iterable[str]], dict[str, Tensor]]

CONVERTERS: tuple[tuple[Recognizer, Converter], ...] = (
    (is_torchvision_resnet, convert_torchvision_resnet),
    (is_resnest, convert_resnest),
)
"""Pairs of recognizer and converter of a state dict; the first recognizer that matches decides."""


def convert_pretrained(
    loaded: dict[str, Any], model_keys: Iterable[str], *, partial: bool = False
) -> dict[str, Any]:
    """Rename the weights of a pretrained backbone, if one of :data:`CONVERTERS` recognizes them.

    Args:
        loaded: a state dict, or a checkpoint of mmdet with one in ``state_dict``.
        model_keys: keys of the model's state dict.
        partial: leave out weights of torchvision's ResNets without a counterpart.

    Raises:
        ValueError: the backbone does not fit the model.
    """
    state = loaded.get("state_dict", loaded)
    if partial and is_torchvision_resnet(state):
        return convert_torchvision_resnet(state, model_keys, partial=True)
    for recognizes, convert in CONVERTERS:
        if recognizes(state):
            return convert(state, model_keys)
    return loaded
