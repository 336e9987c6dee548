"""Weights computed by a formula, so that recorded results need no weight file.

Entry i (row-major) of the tensor mmdet calls ``key`` starts from the unsigned 32-bit integer
``crc32(key) + i * 0x9E3779B9``, mixed by the finalizer of MurmurHash3; its upper 24 bits are a
number u in [-1, 1). ``_value`` turns u into a weight, depending on the key. Everything is exact
except the products with a scale, which round once.
"""

import math
import re
import zlib

import numpy as np
import torch


def uniform(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 numbers in [-1, 1) that depend only on the key and their index."""
    x = np.arange(math.prod(shape), dtype=np.uint32)
    x *= np.uint32(0x9E3779B9)
    x += np.uint32(zlib.crc32(key.encode()))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    u = (x >> np.uint32(8)).astype(np.float32)
    u *= np.float32(2.0**-23)
    u -= np.float32(1)
    return u.reshape(shape)


# The first pattern that matches the key gives the weight offset + scale * u. If the last entry is
# true, scale is in units of sqrt(6 / fan in), which keeps the magnitude of features constant.
_SCALES = (
    (r"running_mean$", 0.0, 0.1, False),
    (r"running_var$", 1.0, 0.5, False),
    (r"bn3\.weight$", 0.2, 0.1, False),  # residuals add up, so their scale is small
    (r"downsample\.1\.weight$", 0.7, 0.2, False),
    (r"bn\d\.weight$", 1.0, 0.2, False),
    (r"lateral_convs\.\d\.conv\.weight$", 0.0, 0.5, True),
    (r"shared_fcs\.\d\.bias$", -1.0, 0.3, False),  # few active units, so that RoIs differ
    (r"fc_cls\.bias$", 0.0, 0.2, False),
    (r"rpn_cls\.weight$", 0.0, 0.3, True),  # keeps sigmoids away from 1, where float32 has ties
    (r"rpn_reg\.weight$", 0.0, 0.1, True),
    (r"bias$", 0.0, 0.1, False),
    (r"weight$", 0.0, 1.0, True),
)


def mmdet_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return an mmdet state dict with the given names and shapes."""
    return {key: _value(key, tuple(shape)) for key, shape in shapes.items()}


def picture(name: str, height: int, width: int) -> torch.Tensor:
    """Return an RGB uint8 image ``(3, height, width)``: colored 16 x 16 blocks and noise."""
    blocks = uniform(name, (3, -(-height // 16), -(-width // 16)))
    blocks = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    noise = uniform(name + " noise", (3, height, width))
    return torch.from_numpy(np.floor(128 + 104 * blocks + 23 * noise).astype(np.uint8))


def _value(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    u = torch.from_numpy(uniform(key, shape))
    if key.endswith("cum_samples"):
        return ((u + 1) * 1000).floor()
    _, offset, scale, by_fan_in = next(row for row in _SCALES if re.search(row[0], key))
    if by_fan_in:
        scale *= math.sqrt(6 / math.prod(shape[1:]))
    return u.mul_(scale).add_(offset)
