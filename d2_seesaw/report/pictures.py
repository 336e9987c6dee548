"""Pictures for reports: confused or missed objects, and samples of a dataset."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from PIL import Image

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.image_files import ImageFolder
from d2_seesaw.evaluation.analysis import ConfusionExample
from d2_seesaw.report.series import GROUP_COLORS

if TYPE_CHECKING:
    from detectron2.utils.visualizer import Visualizer

LONG_SIDE = 320
"""Longer side of a picture of an example, in pixels."""

_CONTEXT = 0.5  # on each side of the boxes, in units of their longer side
_LEAST_CONTEXT = 32  # pixels of the image: a small object cannot be recognized without context
_LINE, _OUTLINE = 3, 5  # pixels of the picture
_SAME_GROUP = "#1c2833"
_QUALITY = 85
_TRIES = 5  # images of a category, if earlier ones cannot be read

logger = logging.getLogger(__name__)


class ExamplePictures:
    """Drawer of the examples of a dataset.

    Args:
        images: Images of the annotation file, with an "id" and a "file_name" or a "coco_url".
        folder: Folder of the images, see ``image_paths``.

    Attributes:
        failures: One reason for each example that could not be drawn.
    """

    def __init__(self, images: Sequence[Mapping[str, Any]], folder: ImageFolder) -> None:
        self._images = images
        self._folder = folder
        self.failures: list[str] = []

    @cached_property
    def _image_of(self) -> dict[int | str, Mapping[str, Any]]:
        return {image["id"]: image for image in self._images}

    @cached_property
    def _path_of(self) -> Callable[[Mapping[str, Any]], str]:
        return image_paths(self._images, str(self._folder.root))

    def draw(self, example: ConfusionExample, groups: Mapping[int, str]) -> bytes | None:
        """Draw an example as a JPEG file. Return None if the image cannot be read.

        Args:
            example: The example.
            groups: Frequency group of each category id.
        """
        place = f"image {example.image_id!r}"
        try:
            place = self._path_of(self._image_of[example.image_id])
            return draw_example(self._folder.read(place), example, groups)
        except Exception as error:  # any failure costs one picture, not the whole report
            self.failures.append(_failure(place, error))
            return None


def draw_example(image: np.ndarray, example: ConfusionExample, groups: Mapping[int, str]) -> bytes:
    """Draw an object in a dashed box and its detection in a solid one, as a JPEG file.

    The boxes have the colors of their groups; if the groups are equal, the detection is black. The
    picture shows the crop of ``window``, and its longer side has 320 pixels.

    Args:
        image: ``(H, W, 3)`` RGB.
        example: The example.
        groups: Frequency group of each category id.

    Raises:
        ValueError: the boxes are not finite, or outside the image.
    """
    left, top, right, bottom = window(example, image.shape[:2])
    scale = LONG_SIDE / max(right - left, bottom - top)
    size = [max(1, round(scale * length)) for length in (right - left, bottom - top)]
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas = _visualizer(cv2.resize(crop, size, interpolation=shrinks))
    points = 72 / canvas.output.dpi  # per pixel
    outlines = []
    for box, color, style in _boxes_to_draw(example, groups):
        x, y, w, h = box
        xs = (np.array([x, x + w, x + w, x, x]) - left) * size[0] / (right - left)
        ys = (np.array([y, y, y + h, y + h, y]) - top) * size[1] / (bottom - top)
        outlines.append((xs, ys, color, style))
        # A white outline makes the boxes visible on any image.
        canvas.draw_line(xs, ys, "white", linewidth=_OUTLINE * points)
    # The dashed box comes last, without an outline: both are visible where they coincide.
    for outline in outlines:
        canvas.draw_line(*outline, linewidth=_LINE * points)
    file = io.BytesIO()
    picture = Image.fromarray(canvas.output.get_image())
    picture.save(file, "JPEG", quality=_QUALITY, subsampling=0)  # keeps the colors of thin lines
    return file.getvalue()


def _boxes_to_draw(
    example: ConfusionExample, groups: Mapping[int, str]
) -> Iterator[tuple[list[float], str, str]]:
    """Yield box, color and line style of the detection, then of the object."""
    group = groups[example.category_id]
    if example.predicted_box is not None and example.predicted_id is not None:
        other = groups[example.predicted_id]
        yield example.predicted_box, _SAME_GROUP if other == group else GROUP_COLORS[other], "-"
    yield example.box, GROUP_COLORS[group], "--"


def window(example: ConfusionExample, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Compute the crop: the union of the boxes, padded by half its longer side.

    The padding is at least 32 pixels. The crop ends at the edge of the image.

    Args:
        example: The example.
        shape: Height and width of the image.

    Returns:
        Left, top, right and bottom in pixels, the last two exclusive.

    Raises:
        ValueError: the boxes are not finite, or outside the image.
    """
    boxes = np.array([box for box in (example.box, example.predicted_box) if box is not None])
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    if not np.isfinite([low, high]).all():
        raise ValueError(f"boxes must be finite numbers, got {boxes.tolist()}")
    height, width = shape
    context = max(_LEAST_CONTEXT, _CONTEXT * float((high - low).max()))
    left, top = (max(0, math.floor(edge - context)) for edge in low.tolist())
    right, bottom = (
        min(end, math.ceil(edge + context))
        for edge, end in zip(high.tolist(), (width, height), strict=True)
    )
    if left >= right or top >= bottom:
        raise ValueError(f"boxes {boxes.tolist()} are outside the image of {width} x {height}")
    return left, top, right, bottom


def sample_pictures(
    columns: AnnotationTable,
    categories: Sequence[int],
    file_name: Callable[[Mapping[str, Any]], str],
    *,
    folder: ImageFolder,
    color: str,
    long_side: int = 420,
    failures: list[str] | None = None,
) -> dict[int, bytes]:
    """Draw one image of each category: the image with its largest object, crowds excluded.

    Args:
        columns: The annotations.
        categories: Indices of categories.
        file_name: Function that returns the path of an entry of ``columns.images``.
        folder: Folder of the images; other files are not read.
        color: Color of the objects, ``#rrggbb``.
        long_side: Longer side of the pictures, in pixels.
        failures: Gets one reason for each image that is left out.

    Returns:
        A JPEG file by category, for each category with a readable image.
    """
    pictures = {}
    for category in categories:
        for image in _images_of(columns, category):
            place = file_name(columns.images[image])
            try:
                pixels = folder.read(place)
            except (OSError, SyntaxError, ValueError) as error:
                if failures is not None:
                    failures.append(_failure(place, error))
                continue
            pictures[category] = _draw_sample(columns, image, category, pixels, color, long_side)
            break
    return pictures


def _failure(place: str, error: Exception) -> str:
    text = str(error)
    return text if text.startswith(place) else f"{place}: {error!r}"


def _images_of(columns: AnnotationTable, category: int) -> list[int]:
    """Return images of a category, the image with its largest object first."""
    mine = np.flatnonzero((columns.category == category) & ~columns.crowd & columns.usable)
    areas = columns.box[mine, 2] * columns.box[mine, 3]
    images = columns.image[mine[np.argsort(-areas, kind="stable")]]
    return list(dict.fromkeys(images.tolist()))[:_TRIES]


def _draw_sample(
    columns: AnnotationTable,
    image: int,
    category: int,
    pixels: np.ndarray,
    color: str,
    long_side: int,
) -> bytes:
    scale = long_side / max(pixels.shape[:2])
    canvas = _visualizer(np.ascontiguousarray(pixels), scale=scale)
    annotations = columns.annotations_of(image, category)
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    with_masks = all("segmentation" in a for a in annotations)
    rgb = tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    drawn = canvas.overlay_instances(
        boxes=np.array(boxes),
        masks=[a["segmentation"] for a in annotations] if with_masks else None,
        assigned_colors=[rgb] * len(annotations),
        alpha=0.45,
    )
    picture = np.ascontiguousarray(drawn.get_image()[:, :, ::-1])
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return jpeg.tobytes()


def _visualizer(image: np.ndarray, **options: Any) -> Visualizer:
    from detectron2.utils.visualizer import Visualizer  # imports matplotlib

    return Visualizer(image, Metadata(), **options)
