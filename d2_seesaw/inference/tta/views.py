"""Views of an image: resizing, mirroring, conversion of boxes and masks, and passes over views.

Shapes in this module:
    H, W: frame, the size in which predictions are returned
    h, w: view
    N: boxes
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeTransform
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes
from torch import Tensor

from d2_seesaw.data.image_files import check_record_image
from d2_seesaw.data.transforms import shortest_edge_size

Size = tuple[int, int]
"""Height and width."""

T = TypeVar("T")

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class View:
    """An image resized to ``size`` and then, if ``mirrored``, flipped left to right.

    The size of ``frame``, to which boxes are converted, may differ from the size of the original
    image. ``number`` is the index of the view.
    """

    number: int
    size: Size
    frame: Size
    mirrored: bool

    def image(self, original: np.ndarray) -> Tensor:
        """Return the ``(channels, h, w)`` view of a ``(height, width, channels)`` image.

        Images are resized as in Detectron2's test mapper, which uses Pillow for uint8 images.
        """
        return self.of_resized(resize(original, self.size))

    def of_resized(self, resized: np.ndarray) -> Tensor:
        """Return the ``(channels, h, w)`` view of an ``(h, w, channels)`` image."""
        if self.mirrored:
            resized = resized[:, ::-1]
        return torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def to_frame(self, boxes: Tensor) -> Tensor:
        """Convert boxes ``(N, 4)``, or ``(N, 4 C)`` of C classes, from the view to the frame."""
        seen = boxes.reshape(-1, 4)
        placed = Boxes(self._mirror(seen) if self.mirrored else seen.clone())
        placed.scale(self.frame[1] / self.size[1], self.frame[0] / self.size[0])
        return placed.tensor.view(boxes.shape)

    def to_view(self, boxes: Tensor) -> Tensor:
        """Convert boxes ``(N, 4)`` from the frame to the view."""
        placed = Boxes(boxes.clone())
        placed.scale(self.size[1] / self.frame[1], self.size[0] / self.frame[0])
        return self._mirror(placed.tensor) if self.mirrored else placed.tensor

    def unmirror(self, masks: Tensor) -> Tensor:
        """Convert masks ``(N, ..., M, M)`` on boxes of the view to masks on boxes of the frame."""
        return masks.flip(-1) if self.mirrored else masks

    def _mirror(self, boxes: Tensor) -> Tensor:
        width = self.size[1]
        x0, y0, x1, y1 = boxes.unbind(1)
        return torch.stack([width - x1, y0, width - x0, y1], dim=1)


def resize(original: np.ndarray, size: Size) -> np.ndarray:
    """Resize a ``(height, width, channels)`` image to ``size``, as views are."""
    height, width = original.shape[:2]
    return ResizeTransform(height, width, *size).apply_image(original)


def check_scales(scales: Iterable[int | Sequence[int]]) -> list[tuple[int, int]]:
    """Return sorted pairs of a short edge and the limit of the long edge.

    Raises:
        ValueError: there is no pair, a pair is given twice or is not ``0 < short <= long``.
    """
    pairs: list[tuple[int, int]] = []
    for scale in scales:
        edges = (scale, scale) if isinstance(scale, int) else tuple(scale)
        is_pair = len(edges) == 2 and all(isinstance(edge, int) for edge in edges)
        if not is_pair or not 0 < edges[0] <= edges[1]:
            raise ValueError(
                "scales must be pairs of pixels (short edge, limit of the long edge), with a limit "
                f"of at least the short edge; (s, s) makes the long edge s. Got {edges}"
            )
        pairs.append((edges[0], edges[1]))
    if not pairs or len(set(pairs)) < len(pairs):
        raise ValueError(f"scales must be at least one pair and each once, got {pairs}")
    return sorted(pairs)


def views_of(
    original: Size, frame: Size, scales: Iterable[tuple[int, int]], *, flip: bool
) -> list[View]:
    """Return a view of the image for each scale and, with ``flip``, also its mirror image.

    The short edge gets its length unless the long edge would exceed its limit, as in
    ``ResizeShortestEdge``, but each edge has at least one pixel.

    Args:
        original: Size of the original image.
        frame: Size in which predictions are returned.
        scales: Pairs of a short edge and the limit of the long edge.
        flip: Whether to add mirrored views.
    """
    sizes = [shortest_edge_size(*original, *scale) for scale in scales]
    mirrored = (False, True) if flip else (False,)
    kinds = enumerate((size, m) for size in sizes for m in mirrored)
    return [View(number, size, frame, m) for number, (size, m) in kinds]


@dataclass(frozen=True)
class ViewRunner:
    """Runner of a model on the views of an image, ``batch_size`` at a time.

    Only what the caller keeps outlives a batch, so memory is that of the largest batch of views. A
    second pass computes the views and their features again.

    Args:
        model: Model in evaluation mode.
        image: ``(height, width, channels)`` original image.
        views: Views in the order in which they run.
        batch_size: Views per forward pass. Views of different sizes are padded to the largest.
        amp_dtype: Dtype of autocast; no autocast if None.
    """

    model: GeneralizedRCNN
    image: np.ndarray
    views: list[View]
    batch_size: int = 1
    amp_dtype: torch.dtype | None = None

    def run(
        self, run: Callable[[list[View], list[dict[str, Any]]], list[T]]
    ) -> Iterator[tuple[View, T]]:
        """Yield each view with its result.

        Args:
            run: Function of a batch of views and their model inputs, with one result per view.
        """
        # A view is followed by its mirror image.
        resized = lru_cache(maxsize=1)(partial(resize, self.image))
        for start in range(0, len(self.views), self.batch_size):
            views = self.views[start : start + self.batch_size]
            inputs = [{"image": view.of_resized(resized(view.size))} for view in views]
            with self._autocast():
                results = run(views, inputs)
            yield from zip(views, results, strict=True)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.model.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        )


def original_image(given: Mapping[str, Any], image_format: str | None) -> tuple[np.ndarray, Size]:
    """Return the unresized image of a model input, and the frame of its predictions.

    The frame is ``height`` and ``width``, or else the size of ``image``, as in the model itself.
    The image is the first one available of:

    1. ``original_image``, ``(channels, height, width)`` in the channel order of the model;
    2. ``image``, if it has the size of the frame and thus was not resized;
    3. the file ``file_name``, rotated by its EXIF orientation.

    Args:
        given: One input of a Detectron2 model.
        image_format: Channel order of the model, for reading the file.

    Returns:
        The image ``(height, width, channels)``, and ``(H, W)`` of the frame.

    Raises:
        ValueError: no image is available, there is no channel order to read the file, or the file
            has more than 8 bits a channel.
        FileNotFoundError: the file is needed and does not exist.
    """
    image = given.get("image")
    frame = _frame(given)
    if "original_image" in given:
        found = _height_first(given["original_image"])
    elif image is not None and tuple(image.shape[1:]) == frame:
        found = _height_first(image)
    elif "file_name" in given:
        found = _read(given["file_name"], image_format)
    else:
        size = None if image is None else tuple(image.shape[1:])
        raise ValueError(
            "views need the original image, which is not in this input: 'image' has the size "
            f"{size}, 'height' and 'width' are {frame}. Give 'file_name', or the unresized image "
            f"as 'original_image'. Got the keys {sorted(given)}"
        )
    return found, frame or found.shape[:2]


def _frame(given: Mapping[str, Any]) -> Size | None:
    if "height" in given and "width" in given:
        return int(given["height"]), int(given["width"])
    return tuple(given["image"].shape[1:]) if "image" in given else None


def _height_first(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).cpu().numpy()


def _read(file_name: str, image_format: str | None) -> np.ndarray:
    if image_format is None:
        raise ValueError(f"the model has no input_format: give the image_format of {file_name!r}")
    check_record_image({"file_name": file_name})
    try:
        return read_image(file_name, image_format)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"image {file_name!r} does not exist. Test-time augmentation needs the original image, "
            "as this file or as 'original_image' in the input"
        ) from error
