"""Objects of a street scene, painted into an image and its label map together.

Lengths are in units of 1/128 of the scene's height; y points down.

Shapes in this module:
    H, W: height and width of the scene in pixels
    P: points of an outline
"""

from collections.abc import Callable

import cv2
import numpy as np

from d2_seesaw.data.quickstart import CLASSES
from d2_seesaw.synthetic.glyphs import smooth_noise, to_bgr

UNITS_HIGH = 128

_SUBPIXEL_BITS = 4
_SIGN_HUES = (0.0, 0.15, 0.6)  # red, yellow, blue
_LAMP_HUES = (0.0, 0.13, 0.36)  # red, amber, green
_DARK = to_bgr(0.6, 0.15, 0.14)
_LAMP_OF_TAXI = to_bgr(0.14, 0.6, 1.0)


class Painter:
    """An image and its labels, painted from back to front.

    Args:
        rng: source of all random numbers.
        shape: ``(H, W)``.

    Attributes:
        picture: ``(H, W, 3)`` float32 BGR.
        labels: ``(H, W)`` uint8 indices of ``CLASSES``.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int]) -> None:
        self.rng = rng
        self.scale = shape[0] / UNITS_HIGH
        self.units_wide = shape[1] / self.scale
        self.picture = np.zeros((*shape, 3), np.float32)
        self.labels: np.ndarray = np.zeros(shape, np.uint8)

    def polygon(
        self, points: np.ndarray, label: int, color: np.ndarray, *, grain: float = 0
    ) -> None:
        """Paint a filled ``(P, 2)`` outline; ``grain`` is the contrast of its texture."""
        pixels = points * self.scale - 0.5
        first = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0)
        last = np.ceil(pixels.max(axis=0)).astype(int) + 1
        window = slice(first[1], max(last[1], 0)), slice(first[0], max(last[0], 0))
        height, width = self.labels[window].shape
        if not height * width:
            return
        mask = np.zeros((height, width), np.uint8)
        corners = np.rint((pixels - first) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1, cv2.LINE_8, _SUBPIXEL_BITS)
        inside = mask.view(bool)
        paint = color
        if grain:
            noise = smooth_noise(self.rng, height, width, octaves=6)[inside, None]
            paint = color * (1 + grain * (2 * noise - 1))
        self.picture[window][inside] = paint
        self.labels[window][inside] = label

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        label: int,
        color: np.ndarray,
        *,
        grain: float = 0,
    ) -> None:
        """Paint a rectangle."""
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        self.polygon(points, label, color, grain=grain)

    def ellipse(
        self,
        center: tuple[float, float],
        radii: tuple[float, float],
        label: int,
        color: np.ndarray,
        *,
        grain: float = 0,
    ) -> None:
        """Paint an axis-aligned ellipse."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.polygon(circle * radii + center, label, color, grain=grain)

    def color(
        self,
        saturation: tuple[float, float],
        value: tuple[float, float],
        hue: tuple[float, float] = (0, 1),
    ) -> np.ndarray:
        """Draw a ``(3,)`` BGR color from ranges of hue, saturation and value."""
        return to_bgr(*(self.rng.uniform(*bounds) for bounds in (hue, saturation, value)))


def _label(name: str) -> int:
    return CLASSES.index(name)


def paint_tree(painter: Painter, x: float, base: float) -> None:
    """Paint a trunk on ``base`` and a crown of a few overlapping ellipses."""
    rng, label = painter.rng, _label("tree")
    trunk, radius = rng.uniform(9, 18), rng.uniform(6, 12)
    bark = painter.color((0.3, 0.5), (0.25, 0.45), (0.05, 0.1))
    painter.box(x - 1.2, base - trunk, x + 1.2, base, label, bark, grain=0.2)
    leaves = painter.color((0.35, 0.7), (0.25, 0.55), (0.2, 0.38))
    for _ in range(rng.integers(2, 5)):
        center = (x + rng.normal(0, radius / 3), base - trunk - rng.uniform(0, radius))
        size = radius * rng.uniform(0.6, 1.0)
        painter.ellipse(center, (size, size * rng.uniform(0.8, 1.1)), label, leaves, grain=0.5)


def paint_pole(painter: Painter, x: float, base: float, top: float) -> None:
    """Paint a thin pole, as gray as many buildings."""
    half = painter.rng.uniform(0.7, 1.1)
    gray = painter.color((0.0, 0.12), (0.3, 0.65))
    painter.box(x - half, top, x + half, base, _label("pole"), gray)


def paint_sign(painter: Painter, x: float, top: float) -> None:
    """Paint a bright plate with a pale center: a disk, a triangle or a square."""
    label, radius = _label("sign"), painter.rng.uniform(2.6, 3.8)
    hue = _SIGN_HUES[painter.rng.integers(len(_SIGN_HUES))]
    bright = painter.color((0.7, 0.9), (0.75, 0.95), (hue - 0.02, hue + 0.02))
    pale = painter.color((0.0, 0.1), (0.85, 1.0))
    center = np.array([x, top + radius])
    turn = {0: 0.0, 3: np.pi / 2, 4: np.pi / 4}
    corners = list(turn)[painter.rng.integers(len(turn))]
    for size, color in ((radius, bright), (0.45 * radius, pale)):
        if corners == 0:
            painter.ellipse((x, top + radius), (size, size), label, color)
        else:
            angles = 2 * np.pi * np.arange(corners) / corners - turn[corners]
            outline = size * 1.15 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            painter.polygon(center + outline, label, color)


def paint_light(painter: Painter, x: float, top: float) -> None:
    """Paint a dark box with three lamps, one of them lit."""
    rng, label = painter.rng, _label("light")
    half, height = rng.uniform(1.6, 2.2), rng.uniform(7, 9.5)
    painter.box(x - half, top, x + half, top + height, label, _DARK)
    shining = rng.integers(len(_LAMP_HUES))
    for place, hue in enumerate(_LAMP_HUES):
        color = to_bgr(hue, 0.75, 1.0 if place == shining else 0.25)
        center = (x, top + height * (place + 0.5) / len(_LAMP_HUES))
        painter.ellipse(center, (0.7 * half, 0.7 * half), label, color)


def paint_person(painter: Painter, x: float, base: float) -> None:
    """Paint legs, a coat and a head."""
    rng, label = painter.rng, _label("person")
    size = rng.uniform(0.8, 1.2)
    trousers, coat = (painter.color((0.1, 0.6), (0.15, 0.7)) for _ in range(2))
    skin = painter.color((0.3, 0.55), (0.4, 0.9), (0.05, 0.09))
    step = rng.uniform(0.4, 1.4) * size
    for side in (-1, 1):
        foot = x + side * step
        legs = [(x - 0.9 * size, base - 7 * size), (x + 0.9 * size, base - 7 * size)]
        outline = np.array([*legs, (foot + 0.8 * size, base), (foot - 0.8 * size, base)])
        painter.polygon(outline, label, trousers)
    painter.ellipse((x, base - 9.5 * size), (2.1 * size, 4 * size), label, coat, grain=0.15)
    painter.ellipse((x, base - 14.5 * size), (1.4 * size, 1.7 * size), label, skin)


def _paint_vehicle(painter: Painter, x: float, base: float, label: int) -> tuple[float, float]:
    """Paint body, cabin, windows and wheels; return the vehicle's size and half its length."""
    rng = painter.rng
    size = rng.uniform(0.85, 1.25)
    half = rng.uniform(11, 14) * size
    body = painter.color((0.1, 0.8), (0.3, 0.9))
    glass = painter.color((0.1, 0.3), (0.2, 0.45), (0.5, 0.65))
    roof, waist, sill = base - 11 * size, base - 7 * size, base - 1.5 * size
    cabin = [(-0.62, waist), (-0.4, roof), (0.35, roof), (0.6, waist)]
    painter.polygon(np.array([(x + half * u, y) for u, y in cabin]), label, body)
    for left, right in ((-0.42, -0.06), (0.02, 0.4)):
        top, lower = roof + 1.2 * size, waist
        painter.box(x + half * left, top, x + half * right, lower, label, glass)
    outline = [(-1, waist + 1.5 * size), (-0.9, waist), (0.9, waist), (1, waist + 2.5 * size)]
    outline += [(1, sill), (-1, sill)]
    painter.polygon(np.array([(x + half * u, y) for u, y in outline]), label, body, grain=0.1)
    for u in (-0.58, 0.6):
        wheel = 2.4 * size
        painter.ellipse((x + half * u, base - wheel), (wheel, wheel), label, _DARK)
    return size, half


def paint_car(painter: Painter, x: float, base: float) -> None:
    """Paint a car of a random color."""
    _paint_vehicle(painter, x, base, _label("car"))


def paint_taxi(painter: Painter, x: float, base: float) -> None:
    """Paint a car of a random color with a roof lamp and a checkered band."""
    label = _label("taxi")
    size, half = _paint_vehicle(painter, x, base, label)
    roof, waist = base - 11 * size, base - 6.2 * size
    painter.box(x - 2.2 * size, roof - 2 * size, x + 2 * size, roof, label, _LAMP_OF_TAXI)
    squares = 10
    edges = x + half * np.linspace(-0.85, 0.85, squares + 1)
    for place in range(squares):
        color = _DARK if place % 2 else to_bgr(0, 0, 0.95)
        painter.box(edges[place], waist, edges[place + 1], waist + 2 * size, label, color)


def paint_animal(painter: Painter, x: float, base: float) -> None:
    """Paint four legs, a body, a head and a tail, facing left or right."""
    rng, label = painter.rng, _label("animal")
    size, way = rng.uniform(0.9, 1.3), rng.choice([-1, 1])
    fur = painter.color((0.1, 0.5), (0.2, 0.8), (0.03, 0.12))
    for u in (-3, -1.8, 1.8, 3):
        painter.box(x + (u - 0.5) * size, base - 3 * size, x + (u + 0.5) * size, base, label, fur)
    painter.ellipse((x, base - 3.8 * size), (3.8 * size, 1.5 * size), label, fur, grain=0.2)
    painter.ellipse((x + way * 4.2 * size, base - 5.4 * size), (1.5 * size, 1.2 * size), label, fur)
    tail = [(-3, -4.5), (-3.4, -3.8), (-5.4, -6), (-5, -6.5)]
    painter.polygon(np.array([(x + way * u * size, base + v * size) for u, v in tail]), label, fur)


PAINT_ON_GROUND: dict[str, Callable[[Painter, float, float], None]] = {
    "tree": paint_tree,
    "car": paint_car,
    "person": paint_person,
    "taxi": paint_taxi,
    "animal": paint_animal,
}
PAINT_ON_POLE: dict[str, Callable[[Painter, float, float], None]] = {
    "sign": paint_sign,
    "light": paint_light,
}
