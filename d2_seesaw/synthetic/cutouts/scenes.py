"""Scenes of cut-outs: layout, exact visible masks and composition.

Pictures are resized, turned and blurred by Pillow with premultiplied alpha, so that edges have no
halo, and composed in integers.

Shapes in this module:
    H, W: height and width of the scene
    h, w: height and width of an object's window
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageFilter

from d2_seesaw.synthetic.cutouts.pictures import BACKGROUND_MARGIN, OPAQUE, mask_box
from d2_seesaw.synthetic.cutouts.spec import CutoutStyle

_BACKGROUND = -1
_LARGEST_SIDE = 0.95  # of an object, relative to the shorter side of the scene


@dataclass
class PlacedCutout:
    """Part of an object that is inside the scene, before occlusion."""

    category: int
    left: int
    top: int
    patch: np.ndarray  # (h, w, 4) uint8 RGBA, premultiplied
    visible_pixels: int
    least_pixels: int  # number of pixels that must stay visible

    @property
    def mask(self) -> np.ndarray:
        """Return the ``(h, w)`` bool mask before occlusion."""
        return self.patch[..., 3] >= OPAQUE

    @property
    def window(self) -> tuple[slice, slice]:
        """Return rows and columns of the window in the scene."""
        height, width = self.patch.shape[:2]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass
class CutoutScene:
    """Objects in painter's order, and the visible object of each pixel."""

    owner: np.ndarray  # (H, W) int16 index of the visible object, -1 for the background
    objects: list[PlacedCutout] = field(default_factory=list)

    def visible_mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` bool visible mask of an object."""
        return self.owner == index

    def visible_polygons(self, index: int) -> list[list[int]]:
        """Return exact outlines of the visible mask: rasterizing them restores the mask."""
        placed = self.objects[index]
        mask = (self.owner[placed.window] == index).view(np.uint8)
        return mask_polygons(mask, placed.left, placed.top)


def mask_polygons(mask: np.ndarray, left: int = 0, top: int = 0) -> list[list[int]]:
    """Return polygons along the edges of the pixels of a mask, one for each component.

    A hole is reached over a cut of no width, which is run through in both directions. The even-odd
    rule, by which pycocotools fills polygons, and the shoelace formula then leave the hole out.

    Args:
        mask: ``(h, w)`` uint8, 0 or 1.
        left: column of the mask's first pixel.
        top: row of the mask's first pixel.
    """
    # cv2 traces centers of border pixels. At twice the resolution, these centers are half a pixel
    # beside the outline, and rounding up moves them to the corners between pixels.
    height, width = mask.shape
    double = cv2.resize(mask, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST)
    contours, hierarchy = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if hierarchy is None:
        return []
    corner = np.array([left, top])
    rings = [(c.reshape(-1, 2).astype(int) + 1) // 2 + corner for c in contours]
    parents = hierarchy[0, :, 3]
    polygons = []
    for outer in np.flatnonzero(parents < 0):
        pieces = [rings[outer]]
        for hole in np.flatnonzero(parents == outer):
            pieces += [rings[outer][:1], rings[hole], rings[hole][:1]]
        polygons.append(np.concatenate(pieces).ravel().tolist())
    return polygons


def _light_table(rng: np.random.Generator, strength: float) -> np.ndarray:
    """Draw the ``(256,)`` uint8 brightness that replaces each brightness."""
    gain, gamma, contrast = np.exp(strength * rng.uniform([-0.2, -0.25, -0.2], [0.2, 0.25, 0.2]))
    values = (np.arange(256) / 255) ** gamma
    values = gain * (contrast * (values - 0.5) + 0.5)
    return np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)


def _premultiplied(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGBa")


def _array(image: Image.Image) -> np.ndarray:
    """Return ``(h, w, 4)`` uint8; colors that overshoot are limited to alpha."""
    height, width = image.height, image.width
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 4).copy()
    np.minimum(pixels[..., :3], pixels[..., 3:], out=pixels[..., :3])
    return pixels


def transform_cutout(
    pixels: np.ndarray, factor: float, *, flip: bool, degrees: float, blur: float
) -> np.ndarray:
    """Resize, mirror, turn and blur a cut-out.

    Args:
        pixels: ``(H, W, 4)`` uint8 RGBA, not premultiplied.
        factor: scale.
        flip: mirror it horizontally.
        degrees: rotation, counterclockwise.
        blur: standard deviation in pixels.

    Returns:
        ``(h, w, 4)`` uint8 RGBA, premultiplied, of the size that the result needs.
    """
    image = _premultiplied(pixels)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    margin = 1 + int(np.ceil(3 * blur))
    framed = np.pad(_array(image), ((margin, margin), (margin, margin), (0, 0)))
    image = Image.frombytes("RGBa", framed.shape[1::-1], framed.tobytes())
    if degrees:
        image = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return _array(image)


def _scale_factor(pixels: np.ndarray, size: float, shape: tuple[int, int], most: float) -> float:
    """Return the magnification that gives a box of ``size * size`` pixels of area."""
    left, top, right, bottom = mask_box(pixels[..., 3])
    width, height = right - left, bottom - top
    return min(
        size / np.sqrt(width * height), _LARGEST_SIDE * min(shape) / max(width, height), most
    )


def _try_to_place(
    scene: CutoutScene, category: int, patch: np.ndarray, place: np.ndarray, style: CutoutStyle
) -> bool:
    """Add an object on top, unless it or an object below has too little left to be seen.

    ``place`` holds x and y in [0, 1]: between the leftmost and rightmost, the highest and the
    lowest place; a fifth of the box may be outside.
    """
    x, y = place
    mask = patch[..., 3] >= OPAQUE
    total = int(np.count_nonzero(mask))
    left, top, right, bottom = mask_box(patch[..., 3])
    height, width = scene.owner.shape
    box_width, box_height = right - left, bottom - top
    column = round(-0.2 * box_width + x * (width - 0.6 * box_width)) - left
    row = round(-0.2 * box_height + y * (height - 0.6 * box_height)) - top
    inside = patch[max(0, -row) : height - row, max(0, -column) : width - column]
    placed = PlacedCutout(
        category,
        max(0, column),
        max(0, row),
        inside,
        visible_pixels=int(np.count_nonzero(inside[..., 3] >= OPAQUE)),
        least_pixels=max(style.min_visible_pixels, int(np.ceil(style.min_visible_share * total))),
    )
    if placed.visible_pixels < placed.least_pixels:
        return False
    region = scene.owner[placed.window]
    lost = np.bincount(region[placed.mask] + 1, minlength=len(scene.objects) + 1)[1:]
    spare = [o.visible_pixels - o.least_pixels for o in scene.objects]
    if (lost > spare).any():
        return False
    for below, pixels in zip(scene.objects, lost.tolist(), strict=True):
        below.visible_pixels -= pixels
    region[placed.mask] = len(scene.objects)
    scene.objects.append(placed)
    return True


def layout_cutouts(
    rng: np.random.Generator,
    categories: list[int],
    pictures: list[np.ndarray],
    shape: tuple[int, int],
    style: CutoutStyle,
) -> CutoutScene:
    """Place one object per entry of ``categories``, the last on top.

    Objects that do not fit are not drawn, which happens only in very crowded images. Nothing is
    drawn that has no mask.

    Args:
        rng: source of all random numbers.
        categories: category of each object.
        pictures: ``(H, W, 4)`` uint8 RGBA cut-out of each object, not premultiplied.
        shape: H, W.
        style: difficulty.
    """
    scene = CutoutScene(np.full(shape, _BACKGROUND, np.int16))
    low, high = np.log(style.scale)
    for category, pixels in zip(categories, pictures, strict=True):
        size = float(np.exp(rng.uniform(low, high))) * min(shape)
        flip = bool(rng.random() < 0.5) and style.flip
        degrees = float(rng.uniform(-style.max_rotation, style.max_rotation))
        blur = style.blur * max(0.0, float(rng.uniform(-1, 1)))
        table = _light_table(rng, style.light / 2)
        lit = np.dstack([table[pixels[..., :3]], pixels[..., 3]])
        factor = _scale_factor(pixels, size, shape, style.max_enlargement)
        for first in range(0, style.placement_attempts, 4):
            patch = transform_cutout(
                lit, factor * 0.85 ** (first // 4), flip=flip, degrees=degrees, blur=blur
            )
            attempts = range(min(4, style.placement_attempts - first))
            if any(_try_to_place(scene, category, patch, rng.random(2), style) for _ in attempts):
                break
    return scene


def crop_background(
    rng: np.random.Generator, pixels: np.ndarray, shape: tuple[int, int], *, flip: bool
) -> np.ndarray:
    """Return a random crop of a background, ``(H, W, 3)`` uint8.

    Args:
        rng: source of all random numbers.
        pixels: picture of any size, uint8 RGB; smaller ones are enlarged.
        shape: H, W.
        flip: mirror half of the crops.
    """
    height, width = pixels.shape[:2]
    largest = min(height / shape[0], width / shape[1])  # scale of the largest crop
    smallest = min(largest, max(1.0, largest / BACKGROUND_MARGIN))
    zoom = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    x, y, turn = rng.random(3)
    crop_height, crop_width = min(zoom * shape[0], height), min(zoom * shape[1], width)
    left, top = x * (width - crop_width), y * (height - crop_height)
    box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image = image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    crop = np.asarray(image)
    return crop[:, ::-1] if flip and turn < 0.5 else crop


def compose(background: np.ndarray, scene: CutoutScene) -> np.ndarray:
    """Draw the objects over a background, ``(H, W, 3)`` uint8."""
    picture = background.astype(np.int32)
    for placed in scene.objects:
        region = picture[placed.window]
        alpha = placed.patch[..., 3:].astype(np.int32)
        region[:] = placed.patch[..., :3] + (region * (255 - alpha) + 127) // 255
    return np.minimum(picture, 255).astype(np.uint8)


def develop(rng: np.random.Generator, picture: np.ndarray, style: CutoutStyle) -> np.ndarray:
    """Change the light of an image and add noise, ``(H, W, 3)`` uint8."""
    lit = _light_table(rng, style.light)[picture]
    noisy = lit + style.noise * rng.standard_normal(lit.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
