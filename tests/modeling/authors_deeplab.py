"""Weights, labels and names of the network that the authors of Recall Loss train."""

import math
import re

import torch
from torch import Tensor

from tests.checkpoint.mmdet_weights import uniform

LABEL_SIZE = (49, 65)  # neither is a multiple of 4, as in crops of 769
# Patterns of names of weights, each with offset and scale of uniform numbers. Without an offset,
# the scale is in units of sqrt(6 / fan in).
SCALES = (
    (r"running_mean$", 0.0, 0.1),
    (r"running_var$", 1.0, 0.5),
    (r"bn3\.weight$", 0.3, 0.1),
    (r"(bn\d?|downsample\.1|pool\.2|last_conv\.[15])\.weight$", 1.0, 0.3),
    (r"bias$", 0.0, 0.1),
    (r"weight$", None, 1.0),
)
# Their names -> Detectron2's, applied in this order.
RULES = (
    (r"^backbone\.(conv1|bn1)\.", r"backbone.stem.\1."),
    (r"^backbone\.layer(\d)\.", lambda match: f"backbone.res{int(match[1]) + 1}."),
    (r"^(backbone\..*)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\..*)\.downsample\.1\.", r"\1.shortcut.norm."),
    (r"^(backbone\..*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^aspp\.aspp(\d)\.", lambda m: f"decoder.res5.project_conv.convs.{int(m[1]) - 1}."),
    (r"^aspp\.global_avg_pool\.1\.", "decoder.res5.project_conv.convs.4.1."),
    (r"^aspp\.global_avg_pool\.2\.", "decoder.res5.project_conv.convs.4.1.norm."),
    (r"^aspp\.conv1\.", "decoder.res5.project_conv.project."),
    (r"^aspp\.bn1\.", "decoder.res5.project_conv.project.norm."),
    (r"\.atrous_conv\.", "."),
    (r"(convs\.\d)\.bn\.", r"\1.norm."),
    (r"^decoder\.conv1\.", "decoder.res2.project_conv."),
    (r"^decoder\.bn1\.", "decoder.res2.project_conv.norm."),
    (r"^decoder\.last_conv\.0\.", "decoder.res2.fuse_conv.0."),
    (r"^decoder\.last_conv\.1\.", "decoder.res2.fuse_conv.0.norm."),
    (r"^decoder\.last_conv\.4\.", "decoder.res2.fuse_conv.2."),
    (r"^decoder\.last_conv\.5\.", "decoder.res2.fuse_conv.2.norm."),
    (r"^decoder\.last_conv\.8\.", "predictor."),
    (r"^(decoder|predictor)\.", r"sem_seg_head.\1."),
)


def state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return weights with the given names and shapes, computed by a formula."""
    return {key: _value(key, tuple(shape)) for key, shape in shapes.items()}


def _value(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    u = torch.from_numpy(uniform(key, shape))
    _, offset, scale = next(row for row in SCALES if re.search(row[0], key))
    if offset is None:
        return u * (scale * math.sqrt(6 / math.prod(shape[1:])))
    return u * scale + offset


def labels() -> Tensor:
    """Return ``(2, 49, 65)`` labels of 16 classes in blocks; not all classes occur."""
    blocks = torch.from_numpy(uniform("labels", (2, 7, 9))).add(1).mul(7.5).long()
    height, width = LABEL_SIZE
    return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].contiguous()


def renamed(key: str) -> str:
    """Return Detectron2's name of one of their weights."""
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key


def converted(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return their weights under our names.

    Their decoder concatenates the 256 channels of the ASPP and the 48 low-level ones in this order,
    and Detectron2's in the other.
    """
    ours = {renamed(k): v for k, v in weights.items()}
    fusing = "sem_seg_head.decoder.res2.fuse_conv.0.weight"
    ours[fusing] = ours[fusing].roll(48, dims=1)
    return ours
