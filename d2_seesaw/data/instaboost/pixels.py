"""Pixels of InstaBoost: the background behind instances, their new place, colours.

Shapes in this module:
    H, W: size of the image
"""

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from d2_seesaw.data.instaboost.geometry import warp_window
from d2_seesaw.data.instaboost.instances import MaskWindow

_RADIUS = 5  # of the known pixels around each unknown one, as in InstaBoost's released code
_COARSENESS = 4  # the hidden background is estimated at a quarter of the resolution
_COARSE_RADIUS = 2
_CUBIC_MARGIN = 3  # pixels around a group that cubic interpolation may look at


def inpaint(image: np.ndarray, removed: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Estimate the background where instances were (Navier-Stokes in-painting of OpenCV).

    Its time is proportional to the area, and most of the area is covered again by the instances
    in their new places. So what will be seen is in-painted in full; what will be hidden only gets
    an estimate at a quarter of the resolution, as the surroundings of what is seen. No pixel of
    the instances has an influence on the result.

    Args:
        image: ``(H, W, 3)`` uint8.
        removed: ``(H, W)`` bool, pixels of the instances.
        visible: ``(H, W)`` bool, those of them that will be seen.

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
    """Draw a group of instances in its new place, with cubic interpolation.

    Args:
        canvas: ``(H, W, 3)`` uint8, changed in place where ``target`` says.
        image: ``(H, W, 3)`` uint8, the picture they are taken from.
        source: where they were.
        target: where they go.
        matrix: ``(2, 3)``, as ``Similarity.matrix`` gives it.
    """
    x0, y0, x1, y1 = source.bounds
    x0, y0 = max(x0 - _CUBIC_MARGIN, 0), max(y0 - _CUBIC_MARGIN, 0)
    pixels = image[y0 : y1 + _CUBIC_MARGIN, x0 : x1 + _CUBIC_MARGIN]
    warped = warp_window(pixels, matrix, (x0, y0), target.bounds, interpolation=cv2.INTER_CUBIC)
    np.copyto(target.part_of(canvas), warped, where=target.mask[..., None].view(bool))


def jitter_colors(
    image: np.ndarray, rng: np.random.Generator, *, image_format: str = "BGR"
) -> np.ndarray:
    """Change saturation, brightness, contrast and sharpness of a picture.

    Each by a factor in tenths, as in InstaBoost's released code: saturation and sharpness between
    0 and 3, brightness and contrast between 1 and 2; 1 leaves the picture as it is.

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
