"""Appearance of categories: an outline, two colors and a surface pattern per category index.

A glyph depends only on the category index, not on a seed. Datasets of different seeds thus show the
same categories, and a model trained on one can be evaluated on another. Backgrounds of scenes and
surfaces of glyphs are procedural textures.

Outlines are single closed contours without holes in the square [-1, 1] x [-1, 1], y pointing down.

Shapes in this module:
    P: points of an outline
    H, W: height and width of a texture
    S: side of a surface
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

HUES = ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink")
_HUE_ANGLES = (0.0, 0.075, 0.15, 0.32, 0.48, 0.61, 0.75, 0.89)
PATTERNS = ("plain", "striped", "dotted", "checked", "ringed")

_CURVE_POINTS = 48

SURFACE_SIDE = 48


@dataclass(frozen=True, eq=False)
class Glyph:
    """Appearance of one category."""

    name: str
    shape: str
    pattern: str
    pattern_period: float
    outline: np.ndarray  # (P, 2)
    color: tuple[float, float, float]  # hue, saturation, value in [0, 1]
    accent: tuple[float, float, float]


def _polar(radius: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False) - np.pi / 2
    return radius(angles)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _zigzag(radii: tuple[float, ...], repeats: int) -> np.ndarray:
    """Return a polygon with corners on circles of ``radii`` in turn, ``repeats`` times."""
    r = np.tile(radii, repeats)
    angles = 2 * np.pi * np.arange(len(r)) / len(r) - np.pi / 2
    return r[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _corners(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=float).reshape(-1, 2)


def _superellipse(flatness: float, exponent: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)
    cos, sin = np.cos(angles), np.sin(angles)
    x = np.sign(cos) * np.abs(cos) ** (2 / exponent)
    y = np.sign(sin) * np.abs(sin) ** (2 / exponent)
    return np.stack([x, flatness * y], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1)


def _crescent(bite: float) -> np.ndarray:
    t = np.linspace(-2.3, 2.3, _CURVE_POINTS // 2)
    tip_x, tip_y = np.cos(t[-1]), np.sin(t[-1])
    inner = np.linspace(1, -1, _CURVE_POINTS // 2)[1:-1]
    outer_arc = np.stack([-np.cos(t), np.sin(t)], axis=1)
    inner_arc = np.stack([-tip_x - bite * (1 - inner**2), tip_y * inner], axis=1)
    return np.concatenate([outer_arc, inner_arc])


def _half_disk() -> np.ndarray:
    t = np.linspace(0, np.pi, _CURVE_POINTS // 2)
    return np.stack([np.cos(t), -1.2 * np.sin(t)], axis=1)


# Each family has members v = 0, 1, 2, ..., which differ in corners, depth or flatness.
_FAMILIES: dict[str, Callable[[int], np.ndarray]] = {
    "star": lambda v: _zigzag((1.0, 0.42 + 0.06 * (v % 3)), 5 + v % 4),
    "cross": lambda v: _corners(
        *(-0.3, -1, 0.3, -1, 0.3, -0.3, 1, -0.3, 1, 0.3, 0.3, 0.3),
        *(0.3, 1, -0.3, 1, -0.3, 0.3, -1, 0.3, -1, -0.3, -0.3, -0.3),
    ),
    "heart": lambda v: _heart(),
    "crescent": lambda v: _crescent(0.85 - 0.12 * (v % 3)),
    "triangle": lambda v: _zigzag((1.0,), 3),
    "gear": lambda v: _zigzag((1.0, 1.0, 0.72, 0.72), 8 + v % 3),
    "arrow": lambda v: _corners(
        *(0, -1, 0.8, -0.1, 0.32, -0.1, 0.32, 1, -0.32, 1, -0.32, -0.1, -0.8, -0.1)
    ),
    "disk": lambda v: _superellipse(1 - 0.12 * (v % 4), 2.0),
    "bolt": lambda v: _corners(
        *(0.15, -1, -0.65, 0.15, -0.1, 0.15, -0.3, 1, 0.65, -0.3, 0.1, -0.3, 0.55, -1)
    ),
    "tee": lambda v: _corners(
        *(-0.95, -1, 0.95, -1, 0.95, -0.4, 0.32, -0.4, 0.32, 1, -0.32, 1, -0.32, -0.4, -0.95, -0.4)
    ),
    "flower": lambda v: _polar(lambda a: 0.75 + 0.25 * np.cos((5 + v % 4) * (a + np.pi / 2))),
    "tile": lambda v: _superellipse(1 - 0.1 * (v % 4), 7.0),
    "hourglass": lambda v: _corners(*(-0.85, -1, 0.85, -1, 0.2, 0, 0.85, 1, -0.85, 1, -0.2, 0)),
    "dome": lambda v: _half_disk(),
    "boomerang": lambda v: _corners(*(-0.9, -1, -0.3, -1, -0.3, 0.4, 1, 0.4, 1, 1, -0.9, 1)),
    "drop": lambda v: _polar(lambda a: 0.62 + 0.55 * np.exp(-5 * (1 - np.cos(a + np.pi / 2)))),
}
_SHAPES = tuple(_FAMILIES)


def _fit_to_unit_square(outline: np.ndarray) -> np.ndarray:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return (2 * outline - low - high) / (high - low).max()


def _stretch(outline: np.ndarray, member: int) -> np.ndarray:
    """Make later members of a family narrower, so that all categories differ."""
    return outline / np.array([1 + 0.01 * member, 1.0])


@lru_cache(maxsize=4096)
def glyph_of(category: int) -> Glyph:
    """Return the glyph of a 0-based category index; names are unique for any number of categories.

    Neighboring indices have different shapes. With 20 categories, four shapes appear twice and
    every hue two or three times, so neither shape nor color alone identifies a category.
    """
    member, family = divmod(category, len(_SHAPES))
    shape = _SHAPES[family]
    hue = (3 * category + 2 * member) % len(HUES)
    pattern = (category + category // 5 + member) % len(PATTERNS)
    accent_hue = (hue + 3 + member % 3) % len(HUES)
    outline = _fit_to_unit_square(_stretch(_FAMILIES[shape](member), member))
    name = f"{PATTERNS[pattern]}_{HUES[hue]}_{shape}"
    return Glyph(
        name=name if member == 0 else f"{name}_{member + 1}",
        shape=shape,
        pattern=PATTERNS[pattern],
        pattern_period=0.5 + 0.1 * (member % 3),
        outline=outline,
        color=(_HUE_ANGLES[hue], 0.75, 0.85),
        accent=(_HUE_ANGLES[accent_hue], 0.55, 0.95),
    )


def to_bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert HSV to ``(3,)`` float32 BGR in [0, 255]; wrap the hue, clip the others to [0, 1]."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return 255 * np.array(rgb[::-1], dtype=np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int, octaves: int = 4) -> np.ndarray:
    """Return ``(H, W)`` noise in [0, 1]: random grids of doubling resolution, halving weight."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 2 ** (octave + 1) + 1
        grid = rng.random((cells, cells), dtype=np.float32) * 0.5**octave
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)  # a single pixel is constant


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an ``(H, W)`` linear ramp in [0, 1] in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.cos(angle)
    y = np.linspace(-1, 1, height, dtype=np.float32) * np.sin(angle)
    ramp = (x[None, :] + y[:, None]).astype(np.float32)
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return ``(H, W)`` soft stripes in [0, 1]."""
    periods = rng.uniform(2, 6)
    return 0.5 + 0.5 * np.sin(2 * np.pi * periods * _gradient(rng, height, width))


def background(rng: np.random.Generator, height: int, width: int, contrast: float) -> np.ndarray:
    """Return an ``(H, W, 3)`` float32 BGR background in [0, 255]: two colors mixed by a texture.

    Args:
        rng: source of all random numbers.
        height: H.
        width: W.
        contrast: 0 gives one flat color, 1 a background as vivid as the objects.
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
    """Return the ``(S, S)`` float32 fraction of the accent color over [-1, 1] x [-1, 1]."""
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
