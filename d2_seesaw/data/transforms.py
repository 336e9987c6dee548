"""Resizing with OpenCV instead of Pillow, as mmdet's models were trained.

Pillow, which Detectron2 uses, antialiases when it downscales; OpenCV's bilinear interpolation does
not. The pixels differ by a few gray levels, which slightly changes the scores of weights that were
trained with the other library.
"""

from collections.abc import Sequence

import cv2
import detectron2.data.transforms as T
import numpy as np


class OpenCVResizeTransform(T.Transform):
    """Transform that resizes an image of ``h x w`` to ``new_h x new_w`` with OpenCV.

    Bilinear for images and nearest for segmentations; coordinates, and with them boxes and
    polygons, are scaled. ``inverse()`` scales back.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int) -> None:
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w

    # fvcore annotates these methods of the base class as returning None.
    def apply_image(self, img: np.ndarray) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Resize ``(h, w)`` or ``(h, w, channels)``; the dtype does not change."""
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize ``(h, w)`` labels with nearest-neighbor interpolation."""
        if segmentation.dtype == bool:
            resized = self._resize(segmentation.view(np.uint8), cv2.INTER_NEAREST)
            return resized.view(bool)
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale ``(N, 2)`` points x, y in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def inverse(self) -> "OpenCVResizeTransform":
        """Return the transform back to the original size."""
        return OpenCVResizeTransform(self.new_h, self.new_w, self.h, self.w)

    def _resize(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        if array.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"this transform is for images of {self.h} x {self.w}, got "
                f"{array.shape[0]} x {array.shape[1]}"
            )
        size = (self.new_w, self.new_h)
        resized = cv2.resize(np.ascontiguousarray(array), size, interpolation=interpolation)
        return resized.reshape(self.new_h, self.new_w, *array.shape[2:])  # cv2 drops a channel of 1


class OpenCVResizeShortestEdge(T.Augmentation):
    """Detectron2's ``ResizeShortestEdge`` with OpenCV's pixels and mmdet's rounding.

    The image gets the largest size with a short edge of at most ``short_edge_length`` and a long
    edge of at most ``max_size``; edges are rounded half up (mmcv's ``rescale_size``).

    Args:
        short_edge_length: one length, or several to draw from for each image.
        max_size: limit of the long edge.
    """

    def __init__(self, short_edge_length: int | Sequence[int], max_size: int) -> None:
        super().__init__()
        self.short_edge_length = short_edge_length
        self.max_size = max_size

    # Detectron2 passes the inputs that the parameter names select.
    def get_transform(self, image: np.ndarray) -> OpenCVResizeTransform:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the transform for this ``(h, w, ...)`` image."""
        h, w = image.shape[:2]
        short_edge = np.random.choice(np.atleast_1d(self.short_edge_length))
        scale = min(self.max_size / max(h, w), short_edge / min(h, w))
        return OpenCVResizeTransform(h, w, int(h * scale + 0.5), int(w * scale + 0.5))
