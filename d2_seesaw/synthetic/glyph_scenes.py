"""Scenes of glyphs: layout, visible masks and rendering.

The layout of a scene determines every mask. Rendering uses another random generator, so that
annotations do not depend on whether images are drawn.

Shapes in this module:
    H, W: height and width of the scene
    P: points of an outline
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from d2_seesaw.synthetic.glyphs import (
    SURFACE_SIDE,
    Glyph,
    background,
    glyph_of,
    surface_pattern,
    to_bgr,
)

_SUBPIXEL_BITS = 4
_BACKGROUND = -1


@dataclass(frozen=True)
class SceneStyle:
    """Difficulty of the scenes.

    Attributes:
        object_sizes: size ranges as fractions of the shorter side of the image, drawn with equal
            probability: small, medium, large.
        max_rotation: largest rotation in either direction, in degrees.
        max_shear: strength of shear and change of aspect ratio, 0 for none.
        max_tilt: strength of the perspective, 0 for none.
        min_visible_share: smallest visible fraction of an object after occlusion and truncation.
        min_visible_pixels: smallest visible area of an object.
        color_jitter: standard deviation of the hue, in turns of the color wheel.
        background_contrast: 0 for flat backgrounds, 1 for backgrounds as vivid as objects.
        placement_attempts: positions to try per object; the size shrinks with each attempt.
    """

    object_sizes: tuple[tuple[float, float], ...] = ((0.2, 0.3), (0.3, 0.42), (0.42, 0.56))
    max_rotation: float = 30.0
    max_shear: float = 0.15
    max_tilt: float = 0.12
    min_visible_share: float = 0.4
    min_visible_pixels: int = 40
    color_jitter: float = 0.025
    background_contrast: float = 0.6
    placement_attempts: int = 40


@dataclass
class PlacedObject:
    """An object and the homography from its glyph's square to the image."""

    category: int
    homography: np.ndarray  # (3, 3)
    corners: np.ndarray  # (P, 2) outline in the image, int32, in units of 1 / 16 pixel
    window: tuple[int, int, int, int]  # left, top, right, bottom of the part inside the image
    visible_pixels: int
    least_pixels: int  # number of pixels that must stay visible


@dataclass
class Scene:
    """Objects in painter's order, and the visible object of each pixel."""

    owner: np.ndarray  # (H, W) int16 index of the visible object, -1 for the background
    objects: list[PlacedObject] = field(default_factory=list)

    def visible_mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` bool visible mask of an object."""
        return self.owner == index

    def visible_in_window(self, index: int) -> np.ndarray:
        """Return the ``(h, w)`` uint8 visible mask inside the object's window."""
        left, top, right, bottom = self.objects[index].window
        return (self.owner[top:bottom, left:right] == index).view(np.uint8)

    def visible_polygons(self, index: int) -> list[list[int]]:
        """Return exact outlines of the visible mask: rasterizing them restores the mask."""
        left, top, _, _ = self.objects[index].window
        return _pixel_outlines(self.visible_in_window(index), left, top)


def _pixel_outlines(mask: np.ndarray, left: int, top: int) -> list[list[int]]:
    # cv2 traces centers of border pixels. At twice the resolution, these centers are half a pixel
    # inside the outline, and rounding up moves them to the corners between pixels.
    height, width = mask.shape
    double = cv2.resize(mask, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corner = np.array([left, top])
    return [((c.reshape(-1, 2).astype(int) + 1) // 2 + corner).ravel().tolist() for c in contours]


def _has_hole(mask: np.ndarray) -> bool:
    _, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return hierarchy is not None and bool((hierarchy[0, :, 3] >= 0).any())


def _random_homography(
    rng: np.random.Generator, size: float, shape: tuple[int, int], style: SceneStyle
) -> np.ndarray:
    """Draw a map from the glyph's square to the image, with a size of about ``size`` pixels."""
    x, y, turn, shear, aspect, tilt_x, tilt_y = rng.random(7)
    angle = np.deg2rad(style.max_rotation) * (2 * turn - 1)
    cos, sin = np.cos(angle) * size / 2, np.sin(angle) * size / 2
    stretch = 1 + style.max_shear * (2 * aspect - 1)
    margin = 0.4 * size  # from center to border, so that most of the object is inside
    height, width = shape
    shear = style.max_shear * (2 * shear - 1)
    place = np.array(
        [
            [cos, -sin, margin + x * max(width - 2 * margin, 0)],
            [sin, cos, margin + y * max(height - 2 * margin, 0)],
            [0, 0, 1],
        ]
    )
    bend = np.array(
        [
            [stretch, shear, 0],
            [0, 1 / stretch, 0],
            [style.max_tilt * (2 * tilt_x - 1), style.max_tilt * (2 * tilt_y - 1), 1],
        ]
    )
    return place @ bend


def _project(outline: np.ndarray, homography: np.ndarray) -> np.ndarray:
    points = outline @ homography[:, :2].T + homography[:, 2]
    return np.rint(points[:, :2] / points[:, 2:] * 2**_SUBPIXEL_BITS).astype(np.int32)


def _window_of(corners: np.ndarray, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(corners)
    left, top = max((x >> _SUBPIXEL_BITS) - 1, 0), max((y >> _SUBPIXEL_BITS) - 1, 0)
    right, bottom = (x + width >> _SUBPIXEL_BITS) + 3, (y + height >> _SUBPIXEL_BITS) + 3
    return left, top, min(right, shape[1]), min(bottom, shape[0])


def _fill(corners: np.ndarray, window: tuple[int, int, int, int], line: int) -> np.ndarray:
    """Fill an outline inside ``window``: ``(h, w)`` uint8, 255 inside the outline."""
    left, top, right, bottom = window
    picture = np.zeros((bottom - top, right - left), np.uint8)
    shifted = corners - np.array([left, top], np.int32) * 2**_SUBPIXEL_BITS
    cv2.fillPoly(picture, [shifted], 255, line, _SUBPIXEL_BITS)
    return picture


def _try_to_place(scene: Scene, category: int, homography: np.ndarray, style: SceneStyle) -> bool:
    """Add an object on top, unless it or an object below gets too small or a hole."""
    corners = _project(glyph_of(category).outline, homography)
    window = _window_of(corners, scene.owner.shape)
    left, top, right, bottom = window
    mask = _fill(corners, window, cv2.LINE_8) > 0
    pixels = int(np.count_nonzero(mask))
    area = cv2.contourArea(corners.astype(np.float32)) / 4**_SUBPIXEL_BITS
    least = max(style.min_visible_pixels, int(style.min_visible_share * area))
    if pixels < least:
        return False

    region = scene.owner[top:bottom, left:right]
    lost = np.bincount(region[mask] + 1, minlength=len(scene.objects) + 1)[1:]
    below = np.flatnonzero(lost).tolist()
    spare = [scene.objects[i].visible_pixels - scene.objects[i].least_pixels for i in below]
    if (lost[below] > spare).any():
        return False
    before = region.copy()
    region[mask] = len(scene.objects)
    scene.objects.append(PlacedObject(category, homography, corners, window, pixels, least))
    # Polygons cannot express holes. Sharp concave corners may also leave some in the own mask.
    if any(_has_hole(scene.visible_in_window(i)) for i in (*below, len(scene.objects) - 1)):
        scene.objects.pop()
        region[:] = before
        return False
    for i in below:
        scene.objects[i].visible_pixels -= int(lost[i])
    return True


def layout_scene(
    rng: np.random.Generator, categories: list[int], shape: tuple[int, int], style: SceneStyle
) -> Scene:
    """Place one object per entry of ``categories``, the last on top.

    Objects that do not fit are left out, which happens only in very crowded images.
    """
    scene = Scene(np.full(shape, _BACKGROUND, np.int16))
    for category in categories:
        low, high = style.object_sizes[rng.integers(len(style.object_sizes))]
        size = rng.uniform(low, high) * min(shape)
        for attempt in range(style.placement_attempts):
            homography = _random_homography(rng, size * 0.96**attempt, shape, style)
            if _try_to_place(scene, category, homography, style):
                break
    return scene


def _surface(rng: np.random.Generator, glyph: Glyph, style: SceneStyle) -> np.ndarray:
    """Draw an ``(S, S, 3)`` float32 BGR surface with the category's colors, jittered and shaded."""
    light = rng.uniform(0.75, 1.15)

    def jittered(color: tuple[float, float, float]) -> np.ndarray:
        hue, saturation, value = color
        hue += rng.normal(0, style.color_jitter)
        return to_bgr(hue, saturation + rng.uniform(-0.15, 0.15), light * value)

    body, accent = jittered(glyph.color), jittered(glyph.accent)
    share = surface_pattern(glyph.pattern, glyph.pattern_period, rng.uniform(-0.1, 0.1))
    shade = np.linspace(1.12, 0.85, SURFACE_SIDE, dtype=np.float32)[:, None, None]
    return shade * (body + share[:, :, None] * (accent - body))


def _draw_object(
    picture: np.ndarray, placed: PlacedObject, rng: np.random.Generator, style: SceneStyle
) -> None:
    left, top, right, bottom = placed.window
    glyph = glyph_of(placed.category)
    surface = _surface(rng, glyph, style)
    half = (SURFACE_SIDE - 1) / 2
    to_square = np.array([[1 / half, 0, -1], [0, 1 / half, -1], [0, 0, 1]])
    to_window = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    paint = cv2.warpPerspective(
        surface,
        to_window @ placed.homography @ to_square,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    shifted = placed.corners - np.array([left, top], np.int32) * 2**_SUBPIXEL_BITS
    edge = tuple(float(c) for c in 0.45 * to_bgr(*glyph.color))
    cv2.polylines(paint, [shifted], True, edge, 1, cv2.LINE_8, _SUBPIXEL_BITS)
    alpha = _fill(placed.corners, placed.window, cv2.LINE_AA)[:, :, None] / np.float32(255)
    region = picture[top:bottom, left:right]
    region += alpha * (paint - region)


def render_scene(rng: np.random.Generator, scene: Scene, style: SceneStyle) -> np.ndarray:
    """Render a scene as an ``(H, W, 3)`` uint8 BGR image."""
    height, width = scene.owner.shape
    picture = background(rng, height, width, style.background_contrast)
    for placed in scene.objects:
        _draw_object(picture, placed, rng, style)
    picture += rng.normal(0, 4, picture.shape).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)
