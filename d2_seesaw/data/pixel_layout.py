"""Copies of images between layouts in memory, which take NumPy as long as resizing takes OpenCV.

Shapes in this module:
    H, W: height and width of the image
    C: channels
"""

import cv2
import numpy as np

_CHANNELS = 3
_FLIPS = {(True, False): 0, (False, True): 1, (True, True): -1}


def contiguous(image: np.ndarray) -> np.ndarray:
    """Return an ``(H, W)`` or ``(H, W, C)`` array as a contiguous one, a view if it is.

    Colors in reverse order, as after reading BGR with Pillow, and mirrored images are copied by
    OpenCV.
    """
    if image.dtype != np.uint8 or image.ndim != _CHANNELS or image.shape[2] != _CHANNELS:
        return np.ascontiguousarray(image)
    if not image.size or image.flags.c_contiguous:
        return np.ascontiguousarray(image)
    rows, columns, channels = (stride < 0 for stride in image.strides)
    straight = image[tuple(slice(None, None, -1 if r else 1) for r in (rows, columns, channels))]
    if not straight.flags.c_contiguous:
        return np.ascontiguousarray(image)
    if channels:
        straight = cv2.cvtColor(straight, cv2.COLOR_RGB2BGR)
    return cv2.flip(straight, _FLIPS[rows, columns]) if rows or columns else straight


def channels_first(image: np.ndarray) -> np.ndarray:
    """Return an ``(H, W, C)`` image as a contiguous ``(C, H, W)`` array."""
    if image.dtype != np.uint8 or image.ndim != _CHANNELS or not image.size:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    image = contiguous(image)
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    for channel, plane in enumerate(planes):
        cv2.extractChannel(image, channel, plane)
    return planes
