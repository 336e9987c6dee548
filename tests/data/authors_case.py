"""Augmentations of Recall Loss's authors with given random numbers, on a computed picture."""

from typing import NamedTuple

import numpy as np

from tests.checkpoint.mmdet_weights import picture, uniform

HEIGHT, WIDTH, CROP = 1024, 2048, 769


class Draws(NamedTuple):
    """Random numbers: factors of the color jitter, flip, scale, and position in [0, 1)."""

    factors: tuple[float, float, float]
    flip: bool
    scale: float
    position: tuple[float, float]


CASES = {
    "a": Draws((0.6, 1.4, 0.7), False, 0.75, (0.5, 0.3)),
    "b": Draws((1.3, 0.55, 1.45), True, 1.25, (0.1, 0.9)),
    "c": Draws((0.9, 1.1, 0.5), True, 2.0, (0.7, 0.2)),
}


def image_and_labels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an RGB image and labels of 16 x 16 blocks."""
    image = picture(name, HEIGHT, WIDTH).permute(1, 2, 0).contiguous().numpy()
    blocks = (uniform(f"{name} labels", (HEIGHT // 16, WIDTH // 16)) * 9.5 + 9.5).astype(np.uint8)
    return image, blocks.repeat(16, axis=0).repeat(16, axis=1)
