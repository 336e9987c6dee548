"""Pictures of a data set, with the objects of one category drawn into each."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer

from d2_seesaw.data.annotations.table import AnnotationColumns

_QUALITY = 85
_TRIES = 5  # images of a category, where those before cannot be read


def sample_pictures(
    columns: AnnotationColumns,
    categories: Sequence[int],
    file_name: Callable[[Mapping[str, Any]], str],
    *,
    color: str,
    long_side: int = 420,
) -> dict[int, bytes]:
    """Draw an image of each category: the one with its largest object that is no crowd.

    Args:
        columns: the annotations.
        categories: indices of categories.
        file_name: the path of an entry of ``columns.images``.
        color: of what is drawn, ``#rrggbb``.
        long_side: of the pictures, in pixels.

    Returns:
        A JPEG file of each category that has an image that can be read.
    """
    pictures = {}
    for category in categories:
        for image in _images_of(columns, category):
            path = file_name(columns.images[image])
            jpeg = _draw(columns, image, category, path, color, long_side)
            if jpeg is not None:
                pictures[category] = jpeg
                break
    return pictures


def _images_of(columns: AnnotationColumns, category: int) -> list[int]:
    """Images of a category, that with its largest object first."""
    mine = np.flatnonzero((columns.category == category) & (columns.crowd == 0))
    areas = columns.box[mine, 2] * columns.box[mine, 3]
    images = columns.image[mine[np.argsort(-areas, kind="stable")]]
    return list(dict.fromkeys(images.tolist()))[:_TRIES]


def _draw(
    columns: AnnotationColumns, image: int, category: int, path: str, color: str, long_side: int
) -> bytes | None:
    if not os.path.isfile(path):
        return None
    try:
        pixels = read_image(path, format="RGB")
    except (OSError, SyntaxError, ValueError):
        return None
    scale = long_side / max(pixels.shape[:2])
    canvas = Visualizer(np.ascontiguousarray(pixels), Metadata(), scale=scale)
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
