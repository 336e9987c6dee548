"""Pixel operations of InstaBoost: inpainting, pasting and color jitter.

Shapes in this module:
    H, W: height and width of the image
"""

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from d2_seesaw.data.instaboost.geometry import warp_window
from d2_seesaw.data.instaboost.instances import MaskWindow

_RADIUS = 5  # inpainting radius, as in InstaBoost's released code
_COARSENESS = 4  # the hidden background is estimated at a quarter of the resolution
_COARSE_RADIUS = 2
_CUBIC_MARGIN = 3  # pixels around a group that cubic interpolation may read


def inpaint(image: np.ndarray, removed: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Inpaint the background of removed instances (OpenCV's Navier-Stokes method).

    The time is proportional to the area, and most of it is covered again by the moved instances.
    Visible pixels are therefore inpainted at full resolution. Hidden pixels only serve as their
    surroundings and are estimated at a quarter of the resolution. Pixels of the instances do not
    influence the result.

    Args:
        image: ``(H, W, 3)`` uint8.
        removed: ``(H, W)`` bool, pixels of the instances.
        visible: ``(H, W)`` bool, the removed pixels that will be visible.

    Returns:
        A new image, equal to ``image`` outside ``removed``.
    """
    result = image.copy()
    hidden = removed & ~visible
    if visible.any() and hidden.any():
        cv2.copyTo(_coarse_background(image, removed), hidden.view(np.uint8), result)
    return cv2.inpaint(result, visible.view(np.uint8), _RADIUS, cv2.INPAINT_NS)


def _coarse_background(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    sampled = slice(_COARSENESS // 2, None, _COARSENESS)
    coarse = cv2.inpaint(
        np.ascontiguousarray(image[sampled, sampled]),
        np.ascontiguousarray(removed[sampled, sampled]).view(np.uint8),
        _COARSE_RADIUS,
        cv2.INPAINT_NS,
    )
    return cv2.resize(coarse, removed.shape[::-1], interpolation=cv2.INTER_LINEAR)


def paste(
    canvas: np.ndarray,
    image: np.ndarray,
    source: MaskWindow,
    target: MaskWindow,
    matrix: np.ndarray,
) -> None:
    """Paste a group of instances at its new position, with cubic interpolation.

    Args:
        canvas: ``(H, W, 3)`` uint8, changed in place inside the mask of ``target``.
        image: ``(H, W, 3)`` uint8, the original image.
        source: original mask of the group.
        target: transformed mask of the group.
        matrix: ``(2, 3)``, from ``Similarity.matrix``.
    """
    x0, y0, x1, y1 = source.bounds
    x0, y0 = max(x0 - _CUBIC_MARGIN, 0), max(y0 - _CUBIC_MARGIN, 0)
    pixels = image[y0 : y1 + _CUBIC_MARGIN, x0 : x1 + _CUBIC_MARGIN]
    warped = warp_window(pixels, matrix, (x0, y0), target.bounds, interpolation=cv2.INTER_CUBIC)
    np.copyto(target.part_of(canvas), warped, where=target.mask[..., None].view(bool))


def jitter_colors(
    image: np.ndarray, rng: np.random.Generator, *, image_format: str = "BGR"
) -> np.ndarray:
    """Change saturation, brightness, contrast and sharpness of an image by random factors.

    Factors are multiples of 0.1, as in InstaBoost's released code: 0 to 3 for saturation and
    sharpness, 1 to 2 for brightness and contrast. A factor of 1 changes nothing.

    Args:
        image: ``(H, W, 3)`` uint8.
        rng: source of the random numbers.
        image_format: ``"BGR"`` or ``"RGB"``.
    """
    order = slice(None, None, -1) if image_format == "BGR" else slice(None)
    picture = Image.fromarray(np.ascontiguousarray(image[:, :, order]))
    for change, low, high in (
        (ImageEnhance.Color, 0, 30),
        (ImageEnhance.Brightness, 10, 20),
        (ImageEnhance.Contrast, 10, 20),
        (ImageEnhance.Sharpness, 0, 30),
    ):
        picture = change(picture).enhance(rng.integers(low, high + 1) / 10)
    return np.ascontiguousarray(np.asarray(picture)[:, :, order])
