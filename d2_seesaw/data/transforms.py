"""Resizing with OpenCV instead of Pillow: the pixels that mmdet's models have seen.

Detectron2 resizes with Pillow, which averages over the pixels that fall together when it makes an
image smaller; OpenCV's bilinear interpolation does not. The two differ by a grey level or a few,
enough to move scores in the last digits that weights trained with the one give with the other.
"""

from collections.abc import Sequence

import cv2
import detectron2.data.transforms as T
import numpy as np


class OpenCVResizeTransform(T.Transform):
    """Resize an image of ``h x w`` to ``new_h x new_w`` as OpenCV does.

    Bilinear for images and nearest for segmentations; coordinates, and with them boxes and
    polygons, are scaled. ``inverse()`` scales back.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int) -> None:
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w

    # fvcore annotates these methods of the base class as returning None.
    def apply_image(self, img: np.ndarray) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map ``(h, w)`` or ``(h, w, channels)`` to the new size, of the same type."""
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Map ``(h, w)`` labels to the new size; no new labels arise."""
        if segmentation.dtype == bool:
            resized = self._resize(segmentation.view(np.uint8), cv2.INTER_NEAREST)
            return resized.view(bool)
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map ``(N, 2)`` points x, y."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def inverse(self) -> "OpenCVResizeTransform":
        """The transform back to the original size."""
        return OpenCVResizeTransform(self.new_h, self.new_w, self.h, self.w)

    def _resize(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        if array.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"this transform is for images of {self.h} x {self.w}, got one of "
                f"{array.shape[0]} x {array.shape[1]}"
            )
        size = (self.new_w, self.new_h)
        resized = cv2.resize(np.ascontiguousarray(array), size, interpolation=interpolation)
        return resized.reshape(self.new_h, self.new_w, *array.shape[2:])  # cv2 drops one channel


class OpenCVResizeShortestEdge(T.Augmentation):
    """Detectron2's ``ResizeShortestEdge`` with OpenCV's pixels and mmdet's rounding.

    The image becomes as large as it can be with a short edge of at most ``short_edge_length`` and a
    long edge of at most ``max_size``; edges are rounded half up (mmcv's ``rescale_size``).

    Args:
        short_edge_length: one length, or several, one of which is drawn for each image.
        max_size: limit of the long edge.
    """

    def __init__(self, short_edge_length: int | Sequence[int], max_size: int) -> None:
        super().__init__()
        self.short_edge_length = short_edge_length
        self.max_size = max_size

    # Detectron2 gives what the parameters' names ask for.
    def get_transform(self, image: np.ndarray) -> OpenCVResizeTransform:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The resizing of this ``(h, w, ...)`` image."""
        h, w = image.shape[:2]
        short_edge = np.random.choice(np.atleast_1d(self.short_edge_length))
        scale = min(self.max_size / max(h, w), short_edge / min(h, w))
        return OpenCVResizeTransform(h, w, int(h * scale + 0.5), int(w * scale + 0.5))
