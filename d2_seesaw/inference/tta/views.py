"""Views of an image, resized and maybe mirrored: the way there and back, and passes over them.

Shapes in this module:
    H, W: the frame, the size that predictions are wanted in
    h, w: the view
    N: boxes
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes
from torch import Tensor

Size = tuple[int, int]
"""Height and width."""

T = TypeVar("T")

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class View:
    """An image resized to ``size`` and then, if ``mirrored``, flipped left to right.

    Boxes outside of it are in the coordinates of ``frame``, which may have another size than the
    image that the view was made from. ``number`` is its place among the views of the image.
    """

    number: int
    size: Size
    frame: Size
    mirrored: bool

    def image(self, original: np.ndarray) -> Tensor:
        """The ``(channels, h, w)`` view of an ``(height, width, channels)`` image.

        Resized as Detectron2's test mapper does: by Pillow for uint8 images.
        """
        height, width = original.shape[:2]
        resized = ResizeTransform(height, width, *self.size).apply_image(original)
        if self.mirrored:
            resized = resized[:, ::-1]
        return torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def to_frame(self, boxes: Tensor) -> Tensor:
        """Boxes ``(N, 4)``, or ``(N, 4 C)`` of C classes, of the view in the frame."""
        seen = boxes.reshape(-1, 4)
        placed = Boxes(self._mirror(seen) if self.mirrored else seen.clone())
        placed.scale(self.frame[1] / self.size[1], self.frame[0] / self.size[0])
        return placed.tensor.view(boxes.shape)

    def to_view(self, boxes: Tensor) -> Tensor:
        """Boxes ``(N, 4)`` of the frame in the view."""
        placed = Boxes(boxes.clone())
        placed.scale(self.size[1] / self.frame[1], self.size[0] / self.frame[0])
        return self._mirror(placed.tensor) if self.mirrored else placed.tensor

    def unmirror(self, masks: Tensor) -> Tensor:
        """Masks ``(N, ..., M, M)`` on boxes of the view as masks on the same boxes in the frame."""
        return masks.flip(-1) if self.mirrored else masks

    def _mirror(self, boxes: Tensor) -> Tensor:
        width = self.size[1]
        x0, y0, x1, y1 = boxes.unbind(1)
        return torch.stack([width - x1, y0, width - x0, y1], dim=1)


def check_scales(scales: Iterable[int | Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of a short edge and its long limit, in one order whatever order they are given in.

    Raises:
        ValueError: no pair, a pair given twice, or one that is not ``0 < short <= long``.
    """
    pairs: list[tuple[int, int]] = []
    for scale in scales:
        edges = (scale, scale) if isinstance(scale, int) else tuple(scale)
        is_pair = len(edges) == 2 and all(isinstance(edge, int) for edge in edges)
        if not is_pair or not 0 < edges[0] <= edges[1]:
            raise ValueError(
                "scales must be pairs of pixels (short edge, limit of the long edge), the limit no "
                f"smaller than the short edge; (s, s) makes the long edge s. Got {edges}"
            )
        pairs.append((edges[0], edges[1]))
    if not pairs or len(set(pairs)) < len(pairs):
        raise ValueError(f"scales must be at least one pair and each once, got {pairs}")
    return sorted(pairs)


def views_of(
    original: Size, frame: Size, scales: Iterable[tuple[int, int]], *, flip: bool
) -> list[View]:
    """The views of an image: for each scale the upright one and, with ``flip``, the mirrored one.

    The short edge gets its length unless the long edge would exceed its limit, as in
    ``ResizeShortestEdge``.

    Args:
        original: size of the image that the views are made from.
        frame: size that predictions are wanted in.
        scales: pairs of a short edge and the limit of the long edge.
        flip: also mirror.
    """
    sizes = [ResizeShortestEdge.get_output_shape(*original, *scale) for scale in scales]
    mirrored = (False, True) if flip else (False,)
    kinds = enumerate((size, m) for size in sizes for m in mirrored)
    return [View(number, size, frame, m) for number, (size, m) in kinds]


@dataclass(frozen=True)
class ViewRunner:
    """Runs a model on an image's views, ``batch_size`` at a time.

    Nothing of a view outlives its turn but what the caller keeps, so memory is that of the largest
    batch of views. A second pass makes the views, and their features, again.

    Args:
        model: in evaluation mode.
        image: ``(height, width, channels)``, the original.
        views: in the order in which they are run.
        batch_size: views per forward. Views of different sizes are padded to the largest.
        amp_dtype: of autocast; None for none.
    """

    model: GeneralizedRCNN
    image: np.ndarray
    views: list[View]
    batch_size: int = 1
    amp_dtype: torch.dtype | None = None

    def run(
        self, run: Callable[[list[View], list[dict[str, Any]]], list[T]]
    ) -> Iterator[tuple[View, T]]:
        """Each view with its part of what ``run`` returned for the views of its batch.

        Args:
            run: takes views and the model inputs they are, returns one thing for each.
        """
        for start in range(0, len(self.views), self.batch_size):
            views = self.views[start : start + self.batch_size]
            with self._autocast():
                results = run(views, [{"image": view.image(self.image)} for view in views])
            yield from zip(views, results, strict=True)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.model.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        )


def original_image(given: Mapping[str, Any], image_format: str | None) -> tuple[np.ndarray, Size]:
    """The unresized image of a model input, and the frame its predictions are wanted in.

    The frame is ``height`` and ``width``; without them the size of ``image``, as for the model
    itself. The image is the first of these that there is:

    1. ``original_image``: ``(channels, height, width)``, in the model's channel order like
       ``image``;
    2. ``image``, where it has the size of the frame: nothing has resized it;
    3. the file ``file_name``, turned as its EXIF orientation says.

    Args:
        given: one input of a Detectron2 model.
        image_format: channel order of the model, for reading the file.

    Returns:
        The image ``(height, width, channels)``, and ``(H, W)`` of the frame.

    Raises:
        ValueError: none of the three is there, or no format to read the third in.
        FileNotFoundError: the third is needed, and there is no such file.
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
            "views are made from the original image, which is not in this input: its image has "
            f"size {size}, its height and width are {frame}. Give 'file_name', or the unresized "
            f"image as 'original_image'. Got the keys {sorted(given)}"
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
    try:
        return read_image(file_name, image_format)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"image {file_name!r} does not exist. Test-time augmentation makes its views from the "
            "original image: put it there, or give it in the input as 'original_image'"
        ) from error
