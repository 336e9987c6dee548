"""Check that a trained backbone gets input of the scale that it was trained with.

Detectron2's model zoo has ResNets of MSRA, which take BGR images of 0 to 255 minus a mean. Those of
torchvision take RGB images that are also divided by a standard deviation of about 58. Names and
shapes of both are the same, so a wrong pair of weights and config trains badly without an error.

The statistics of the first batch norm show the scale. For an input of standard deviation s, the
variance behind a filter w is about s² |w|². The median of variance / |w|² over the filters is 0.6
to 2.3 in models trained with an s of about 1; it would be 58² times as much without the division.
"""

import logging
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

_STD = 58.0  # of the pixels of photographs, in 0 to 255
_RATIO = 7.6  # geometric mean of 1 and 58: above it, the scale is the other one


def check_input(model: nn.Module, path: str, *, refuse: bool) -> None:
    """Refuse or warn if the input of a model is not that of the weights it has loaded.

    Args:
        model: a model of Detectron2. Without ``pixel_std``, or without batch statistics behind the
            first convolution, nothing is known.
        path: path of the checkpoint, for the message.
        refuse: raise an error instead of a warning.

    Raises:
        ValueError: the input differs.
    """
    mismatch = input_mismatch(model)
    if not mismatch:
        return
    message = f"{path}: {mismatch}. See start_from_model_zoo in configs/common/conventions.py"
    if refuse:
        raise ValueError(message)
    logger.warning(message)


def input_mismatch(model: nn.Module) -> str:
    """Return how the input of a model differs from that of its loaded weights; empty if it fits."""
    scale = _trained_scale(model)
    std: Any = getattr(model, "pixel_std", None)
    if scale is None or std is None:
        return ""
    trained_raw, given_raw = scale > _RATIO, _STD / float(std.mean()) > _RATIO
    raw = "BGR pixels of 0 to 255 minus their mean, as Detectron2's model zoo"
    divided = "pixels divided by a standard deviation of about 58"
    if trained_raw != given_raw:
        trained, given = (raw, divided) if trained_raw else (divided, raw)
        return f"the checkpoint was trained with {trained}, but the model gets {given}"
    if trained_raw and getattr(model, "input_format", None) == "RGB":
        return f"the checkpoint was trained with {raw}, but the model gets RGB"
    return ""


def _trained_scale(model: nn.Module) -> float | None:
    """Return the estimated standard deviation of the input in training, None if it is unknown."""
    stem: Any = next(
        (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3), None
    )
    norm: Any = getattr(stem, "norm", None)
    mean, variance = (getattr(norm, f"running_{name}", None) for name in ("mean", "var"))
    if mean is None or variance is None or mean.is_meta or not mean.any():
        return None  # without statistics of data
    energy = stem.weight.detach().flatten(1).square().sum(dim=1)
    used = energy > 0
    if not used.any():
        return None
    return float(torch.median(variance[used] / energy[used]).sqrt())
