"""Street scenes for semantic segmentation: few large classes, and a tail of small and rare ones.

Sky, road and buildings fill most of a scene; signs, lights and animals cover a few pixels. Rare
classes resemble frequent ones: a taxi is a car with a lamp and a checkered band, signs are as
bright as shop signs, which belong to buildings, and poles are as gray as buildings.

Shapes in this module:
    H, W: height and width of the scene in pixels
"""

from collections.abc import Collection

import cv2
import numpy as np

from d2_seesaw.data.quickstart import CLASSES
from d2_seesaw.synthetic.street_objects import (
    PAINT_ON_GROUND,
    PAINT_ON_POLE,
    UNITS_HIGH,
    Painter,
    paint_pole,
)

IGNORE_LABEL = 255
EVERYWHERE = ("sky", "road", "building", "sidewalk")
"""Classes in every scene."""

# Maximum number of objects of a class in a scene that shows it.
_MOST_OBJECTS = {"tree": 4, "car": 4, "person": 4, "pole": 3, "sign": 2, "light": 2, "animal": 2}
_BORDER = 5  # units at the sides without rare objects
_HOOD = 10  # units at the bottom that the observing car may cover
_IGNORED_SIDES, _IGNORED_BOTTOM = 0.3, 0.4  # probabilities of ignored borders

_SKY, _ROAD, _BUILDING, _SIDEWALK = map(CLASSES.index, EVERYWHERE)


def draw_scene(
    rng: np.random.Generator, shown: Collection[str], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene that shows exactly the given classes and those of ``EVERYWHERE``.

    Signs and lights are mounted on poles, so they add poles.

    Args:
        rng: source of all random numbers.
        shown: class names.
        shape: ``(H, W)``.

    Returns:
        ``(H, W, 3)`` uint8 BGR image and ``(H, W)`` uint8 labels: indices of ``CLASSES``, or
        ``IGNORE_LABEL`` where the lens or the observing car covers the scene.
    """
    painter = Painter(rng, shape)
    horizon = rng.uniform(50, 64)
    curb = horizon + rng.uniform(7, 13)
    _paint_background(painter, horizon, curb)
    number = {name: _number_of(rng, name) if name in shown else 0 for name in _MOST_OBJECTS}

    for x in _places(rng, number["tree"], painter.units_wide, margin=0):
        PAINT_ON_GROUND["tree"](painter, x, rng.uniform(horizon + 1, curb - 1))
    _paint_poles(painter, number, curb)
    number["taxi"] = int("taxi" in shown)
    # Rare classes last, so that they are not occluded.
    for name, low, high in (
        ("car", curb + 9, 112),
        ("person", horizon + 5, curb + 12),
        ("taxi", curb + 12, UNITS_HIGH - _HOOD - 2),
        ("animal", horizon + 6, UNITS_HIGH - _HOOD - 2),
    ):
        bases = np.sort(rng.uniform(low, high, number[name]))  # near objects occlude far ones
        for x, base in zip(_places(rng, len(bases), painter.units_wide), bases, strict=True):
            PAINT_ON_GROUND[name](painter, x, base)
    _ignore_borders(painter)
    return _camera_image(painter), painter.labels


def _number_of(rng: np.random.Generator, name: str) -> int:
    return int(rng.integers(1, _MOST_OBJECTS[name] + 1))


def _places(
    rng: np.random.Generator, number: int, units_wide: float, margin: float = _BORDER + 9
) -> np.ndarray:
    """Draw positions along the street, one in each of ``number`` equal slots, in random order."""
    slots = (rng.permutation(number) + rng.uniform(0.15, 0.85, number)) / max(number, 1)
    return margin + slots * (units_wide - 2 * margin)


def _paint_background(painter: Painter, horizon: float, curb: float) -> None:
    wide = painter.units_wide
    sky = painter.color((0.05, 0.4), (0.7, 0.95), (0.53, 0.62))
    painter.box(-1, -1, wide + 1, UNITS_HIGH, _SKY, sky, grain=0.15)
    x = -painter.rng.uniform(0, 20)
    while x < wide:
        right = x + painter.rng.uniform(18, 48)
        if painter.rng.random() < 0.85:
            _paint_building(painter, x, right, horizon)
        x = right
    _paint_building(painter, 0.3 * wide, 0.5 * wide, horizon)  # at least one
    pavement = painter.color((0.0, 0.12), (0.5, 0.7), (0.05, 0.12))
    painter.box(-1, horizon, wide + 1, curb, _SIDEWALK, pavement, grain=0.12)
    asphalt = painter.color((0.0, 0.1), (0.28, 0.5))
    painter.box(-1, curb, wide + 1, UNITS_HIGH + 1, _ROAD, asphalt, grain=0.15)
    middle = (curb + UNITS_HIGH) / 2 + painter.rng.uniform(-6, 6)
    for start in np.arange(-painter.rng.uniform(0, 24), wide, 24):
        painter.box(start, middle, start + 12, middle + 1.5, _ROAD, 1.8 * asphalt)


def _paint_building(painter: Painter, left: float, right: float, base: float) -> None:
    rng = painter.rng
    top = base - rng.uniform(16, 44)
    wall = painter.color((0.05, 0.4), (0.35, 0.8), (0.0, 0.14))
    painter.box(left, top, right, base, _BUILDING, wall, grain=0.12)
    window = wall * rng.uniform(0.4, 0.7)
    wide, high = rng.uniform(2.5, 4.5), rng.uniform(3, 5)
    for y in np.arange(top + 3, base - 10, 1.8 * high):
        for x in np.arange(left + 2.5, right - wide - 1, 1.9 * wide):
            painter.box(x, y, x + wide, y + high, _BUILDING, window)
    if rng.random() < 0.5:
        plate = painter.color((0.6, 0.9), (0.6, 0.95))
        x = rng.uniform(left + 1, max(left + 2, right - 10))
        painter.box(x, base - 9, min(x + rng.uniform(4, 9), right), base - 5, _BUILDING, plate)


def _paint_poles(painter: Painter, number: dict[str, int], curb: float) -> None:
    """Paint poles at the curb, the first of them with signs and lights on top."""
    rng = painter.rng
    hung = [name for name in PAINT_ON_POLE for _ in range(number[name])]
    poles = max(number["pole"], len(hung))
    for index, x in enumerate(_places(rng, poles, painter.units_wide)):
        base = curb - rng.uniform(0.5, 3)
        top = base - rng.uniform(32, 46)
        paint_pole(painter, x, base, top)
        if index < len(hung):
            PAINT_ON_POLE[hung[index]](painter, x, top)


def _ignore_borders(painter: Painter) -> None:
    """Cover some borders by the ignored label, like a lens and the hood of the observing car."""
    rng, wide = painter.rng, painter.units_wide
    black = np.zeros(3, np.float32)
    if rng.random() < _IGNORED_SIDES:
        side = rng.uniform(1, _BORDER)
        painter.box(-1, -1, side, UNITS_HIGH + 1, IGNORE_LABEL, black)
        painter.box(wide - side, -1, wide + 1, UNITS_HIGH + 1, IGNORE_LABEL, black)
    if rng.random() < _IGNORED_BOTTOM:
        paint = painter.color((0.0, 0.3), (0.1, 0.4))
        radii = (wide * rng.uniform(0.4, 0.6), rng.uniform(0.5, 1) * _HOOD)
        painter.ellipse((wide / 2, UNITS_HIGH), radii, IGNORE_LABEL, paint, grain=0.2)


def _camera_image(painter: Painter) -> np.ndarray:
    """Blur the image, add noise and scale its brightness, like a camera."""
    blurred = cv2.GaussianBlur(painter.picture, (0, 0), 0.5 * painter.scale)
    light = painter.rng.uniform(0.75, 1.15)
    noise = painter.rng.normal(0, 4, blurred.shape)
    return np.clip(light * blurred + noise, 0, 255).astype(np.uint8)
