"""Inputs of the recorded mask-IoU head: one image, five objects, twelve RoIs."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

C = 4
CHANNELS = 6
CONV_DIM = 8
FC_DIM = 16
SIZE = 120
M = 28
N = 12


class Case(NamedTuple):
    features: Tensor  # (N, CHANNELS, 14, 14)
    logits: Tensor  # (N, 1, M, M), for each RoI's class
    classes: Tensor  # (N,)
    masks: Tensor  # (5, SIZE, SIZE), one per object
    matched: Tensor  # (N,), the object of each RoI
    boxes: Tensor  # (N, 4), whole pixels, because mmdet truncates fractions


def inputs() -> Case:
    """Draw the inputs. NumPy guarantees that this legacy generator never changes."""
    rng = np.random.RandomState(7)
    features = rng.standard_normal((N, CHANNELS, 14, 14))
    matched = rng.randint(0, 5, N)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    masks, boxes = [], []
    for _ in range(5):
        cx, cy = rng.uniform(45, SIZE - 45, 2)
        rx, ry = rng.uniform(12, 40, 2)
        masks.append(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1)
        boxes.append([cx - rx, cy - ry, cx + rx, cy + ry])
    boxes = np.array(boxes)[matched] + rng.uniform(-12, 12, (N, 4))
    boxes = np.clip(boxes.round(), 0, SIZE)
    crops = np.stack([_crop(masks[k], *b) for k, b in zip(matched, boxes, strict=True)])
    logits = 4 * crops - 2 + 1.5 * rng.standard_normal(crops.shape)
    logits[-1] = -1  # an empty mask
    return Case(
        torch.tensor(features, dtype=torch.float32),
        torch.tensor(logits, dtype=torch.float32)[:, None],
        torch.tensor(rng.randint(0, C, N)),
        torch.tensor(np.stack(masks)),
        torch.tensor(matched),
        torch.tensor(boxes, dtype=torch.float32),
    )


def _crop(mask: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the mask's pixels at the centers of the cells."""
    centers = (np.arange(M) + 0.5) / M
    rows = (y0 + (y1 - y0) * centers).astype(int)
    columns = (x0 + (x1 - x0) * centers).astype(int)
    return mask[rows[:, None], columns[None]]


def weights(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Return weights of the head by name, such that its outputs differ between RoIs."""
    rng = np.random.RandomState(8)
    state = {}
    for name in sorted(shapes):
        fan_in = int(np.prod(shapes[name][1:])) or 1
        values = rng.standard_normal(tuple(shapes[name])) * (1.2 / np.sqrt(fan_in))
        state[name] = torch.tensor(values, dtype=torch.float32)
    return state
