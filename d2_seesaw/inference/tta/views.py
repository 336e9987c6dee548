"""Views of an image: resized, maybe mirrored, and the way of boxes and masks there and back.

Shapes in this module:
    H, W: the frame, the size that predictions are wanted in
    h, w: the view
    N: boxes
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.structures import Boxes
from torch import Tensor

Size = tuple[int, int]
"""Height and width."""


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
