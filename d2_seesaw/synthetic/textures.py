"""Procedural pictures without objects: backgrounds of scenes and surfaces of glyphs.

Shapes in this module:
    H, W: size of a picture
    S: side of a surface
"""

import cv2
import numpy as np

from d2_seesaw.synthetic.glyphs import to_bgr

SURFACE_SIDE = 48


def smooth_noise(rng: np.random.Generator, height: int, width: int, octaves: int = 4) -> np.ndarray:
    """``(H, W)`` smooth noise in [0, 1]: random grids of doubling resolution, halving weight."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 2 ** (octave + 1) + 1
        grid = rng.random((cells, cells), dtype=np.float32) * 0.5**octave
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)  # a single pixel is flat


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """``(H, W)`` linear ramp in [0, 1] in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.cos(angle)
    y = np.linspace(-1, 1, height, dtype=np.float32) * np.sin(angle)
    ramp = (x[None, :] + y[:, None]).astype(np.float32)
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """``(H, W)`` soft stripes in [0, 1]."""
    periods = rng.uniform(2, 6)
    return 0.5 + 0.5 * np.sin(2 * np.pi * periods * _gradient(rng, height, width))


def background(rng: np.random.Generator, height: int, width: int, contrast: float) -> np.ndarray:
    """``(H, W, 3)`` float32 BGR background in [0, 255]: two muted colours mixed by a texture.

    Args:
        rng: Source of all randomness.
        height: H.
        width: W.
        contrast: 0 gives one flat colour, 1 a background as vivid as the objects.
    """
    mix = smooth_noise(rng, height, width)
    kind = rng.integers(3)
    if kind == 1:
        mix = 0.5 * mix + 0.5 * _stripes(rng, height, width)
    elif kind == 2:
        mix = 0.4 * mix + 0.6 * _gradient(rng, height, width)
    hue, value = rng.random(), rng.uniform(0.3, 0.8)
    saturation = 0.6 * contrast * rng.random()
    first = to_bgr(hue, saturation, value)
    hue, value = hue + rng.uniform(-0.3, 0.3), value + contrast * rng.uniform(-0.7, 0.7)
    second = to_bgr(hue, saturation, value)
    grain = rng.normal(0, 6 * contrast, (height, width, 1)).astype(np.float32)
    return first + mix[:, :, None] * (second - first) + grain


def surface_pattern(pattern: str, period: float, phase: float) -> np.ndarray:
    """``(S, S)`` float32 share of the accent colour over a glyph's square [-1, 1] x [-1, 1]."""
    axis = np.linspace(-1, 1, SURFACE_SIDE, dtype=np.float32)
    u, v = (axis[None, :] + phase) / period, (axis[:, None] + phase) / period
    wave_u, wave_v = np.cos(2 * np.pi * u), np.cos(2 * np.pi * v)
    if pattern == "striped":
        strength = wave_v + 0 * u
    elif pattern == "dotted":
        strength = wave_u + wave_v - 0.6
    elif pattern == "checked":
        strength = np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v) * 2
    elif pattern == "ringed":
        strength = np.cos(2 * np.pi * np.hypot(axis[None, :], axis[:, None]) / period)
    else:
        strength = np.full((SURFACE_SIDE, SURFACE_SIDE), -1.0)
    return np.clip(0.5 + 2 * strength, 0, 1).astype(np.float32)
