"""Finding the image that the test mapper started from, before it resized it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from torch import Tensor

from d2_seesaw.inference.tta.views import Size


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
