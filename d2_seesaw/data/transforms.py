"""Augmentations that equal those of published trainings: resizing with OpenCV, color jitter.

Pillow, which Detectron2 uses, antialiases when it downscales; OpenCV's bilinear interpolation does
not. The pixels differ by a few gray levels, which slightly changes the scores of weights that were
trained with the other library.

Resizing to a limit of the long edge leaves no pixel of the short edge of very elongated images, in
Detectron2 and in mmdet. Here each side keeps at least one.
"""

import copy
from collections.abc import Sequence
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
from PIL import Image, ImageEnhance

from d2_seesaw.data.pixel_layout import contiguous


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
        resized = cv2.resize(contiguous(array), size, interpolation=interpolation)
        return resized.reshape(self.new_h, self.new_w, *array.shape[2:])  # cv2 drops a channel of 1


class OpenCVResizeShortestEdge(T.Augmentation):
    """Detectron2's ``ResizeShortestEdge`` with OpenCV's pixels and mmdet's rounding.

    The image gets the largest size with a short edge of at most ``short_edge_length`` and a long
    edge of at most ``max_size``; edges are rounded half up (mmcv's ``rescale_size``), to at least
    one pixel.

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
        new_h, new_w = (max(1, int(side * scale + 0.5)) for side in (h, w))
        return OpenCVResizeTransform(h, w, new_h, new_w)


class OpenCVResize(T.Augmentation):
    """Detectron2's ``Resize`` with OpenCV's pixels.

    Args:
        shape: new height and width.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def get_transform(self, image: np.ndarray) -> OpenCVResizeTransform:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the transform for this ``(h, w, ...)`` image."""
        (h, w), (new_h, new_w) = image.shape[:2], self.shape
        return OpenCVResizeTransform(h, w, new_h, new_w)


class EnlargeToCrop(T.Augmentation):
    """Enlargement of images that are smaller than the crop after it.

    An image with a side shorter than the crop's is resized so that its shorter side is one pixel
    longer than the crop's; others do not change. The rule and the rounding are those of the
    loader of Recall Loss's authors, for square crops.

    Args:
        crop_size: height and width of the crop.
    """

    def __init__(self, crop_size: tuple[int, int]) -> None:
        super().__init__()
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> T.Transform:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the transform for this ``(h, w, ...)`` image."""
        (h, w), (crop_h, crop_w) = image.shape[:2], self.crop_size
        if w >= crop_w and h >= crop_h:
            return T.NoOpTransform()
        scale = crop_w / w if w < h else crop_h / h
        return T.ResizeTransform(h, w, int(scale * h + 1), int(scale * w + 1))


class PillowColorJitter(T.Augmentation):
    """Random brightness, contrast and saturation of an RGB image, by Pillow's ``ImageEnhance``.

    The factors are uniform in ``[1 - x, 1 + x]``, at least 0, and applied in this order. Unlike
    Detectron2's ``RandomContrast``, Pillow blends with the mean of the grayscale image.

    Args:
        brightness: x of the brightness.
        contrast: x of the contrast.
        saturation: x of the saturation.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation

    def get_transform(self, image: np.ndarray) -> T.Transform:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draw the factors."""
        ranges = np.array([self.brightness, self.contrast, self.saturation])
        factors = np.random.uniform(np.maximum(1 - ranges, 0), 1 + ranges).tolist()

        def enhance(picture: Image.Image) -> Image.Image:
            kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for kind, factor in zip(kinds, factors, strict=True):
                picture = kind(picture).enhance(factor)
            return picture

        return T.PILColorTransform(enhance)


def shortest_edge_size(height: int, width: int, short_edge: int, limit: int) -> tuple[int, int]:
    """Return height and width as of ``ResizeShortestEdge``, but at least one pixel each.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        short_edge: of the resized image, in pixels.
        limit: of the long edge of the resized image, in pixels.
    """
    new_h, new_w = T.ResizeShortestEdge.get_output_shape(height, width, short_edge, limit)
    return max(1, new_h), max(1, new_w)


class PixelKeepingAugmentations(T.AugmentationList):
    """Augmentations that resize no side of an image to less than one pixel.

    Transforms that would are changed before they are applied; all others, and the random numbers,
    are those of ``augmentations``.

    Args:
        augmentations: one, or a list of them.
    """

    def __init__(self, augmentations: T.Augmentation | Sequence[T.Augmentation | T.Transform]):
        is_list = isinstance(augmentations, Sequence)
        super().__init__(augmentations if is_list else [augmentations])

    def __call__(self, aug_input: Any) -> T.TransformList:
        """Augment the input in place and return the transforms."""
        return super().__call__(_PixelKeepingInput(aug_input))


class _PixelKeepingInput:
    """Input of augmentations, which pass each transform to it before they draw the next one."""

    def __init__(self, given: Any) -> None:
        object.__setattr__(self, "_given", given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._given, name, value)

    def transform(self, transform: T.Transform) -> None:
        _keep_pixels(transform)
        self._given.transform(transform)


def _keep_pixels(transform: Any) -> None:
    for part in getattr(transform, "transforms", ()):
        _keep_pixels(part)
    resize: type[Any] = T.ResizeTransform  # which sets its attributes by a loop
    if isinstance(transform, resize | OpenCVResizeTransform):
        transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)


def keep_pixels(mapper: Any) -> Any:
    """Return a copy of a mapper whose augmentations keep a pixel; without any, the mapper itself.

    Args:
        mapper: any mapper; Detectron2's and those of this package have ``augmentations``.
    """
    augmentations = getattr(mapper, "augmentations", None)
    if not isinstance(augmentations, T.AugmentationList):
        return mapper
    mapper = copy.copy(mapper)
    mapper.augmentations = PixelKeepingAugmentations(augmentations)
    return mapper
