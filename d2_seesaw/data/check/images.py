"""Check of image files: each is read as training reads it, several at a time."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from detectron2.data.detection_utils import _apply_exif_orientation
from PIL import Image

from d2_seesaw.data.check.issues import Issue
from d2_seesaw.utils.progress import track

_SIXTEEN_BITS = ("I;16", "I", "F", ";16")


@dataclass(frozen=True)
class ImageFile:
    """An image of the annotations.

    Attributes:
        path: The file.
        file_name: The file name in the annotations.
        image_id: Its id.
        height: In pixels, from the annotations; None if they have none.
        width: The same.
    """

    path: str
    file_name: str
    image_id: Any
    height: int | None
    width: int | None


def check_images(
    images: Sequence[ImageFile], *, workers: int | None = None, progress: bool = True
) -> list[Issue]:
    """Read every image to its end.

    Args:
        images: the images to read.
        workers: threads that read; by default one per processor, at most 8.
        progress: show progress, see :class:`~d2_seesaw.utils.progress.Progress`.

    Returns:
        All issues, in the order of the images.
    """
    threads = workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        found = track(
            pool.map(_issues_of, images, chunksize=16),
            "reading images",
            total=len(images),
            unit="image",
            shown=progress,
        )
        return [issue for issues in found for issue in issues]


def _issues_of(image: ImageFile) -> list[Issue]:
    known = {"file_name": image.file_name, "image_id": image.image_id}
    return [Issue(kind, message, **known) for kind, message in _problems(image)]


def _problems(image: ImageFile) -> Iterator[tuple[str, str]]:
    if not os.path.isfile(image.path):
        yield "missing_image", f"there is no file {image.path}"
        return
    try:
        with Image.open(image.path) as opened:
            yield from _problems_of_format(opened)
            yield from _problems_of_pixels(opened, image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        yield "unreadable_image", str(error)


def _problems_of_format(opened: Image.Image) -> Iterator[tuple[str, str]]:
    tiles = getattr(opened, "tile", None)
    raw = str(tiles[0][3]) if tiles else ""
    if opened.mode == "CMYK":
        yield "cmyk_image", "the image is CMYK"
    elif opened.mode.startswith(_SIXTEEN_BITS) or ";16" in raw:
        yield "sixteen_bit_image", f"the image has more than 8 bits a channel (mode {opened.mode})"


def _problems_of_pixels(opened: Image.Image, image: ImageFile) -> Iterator[tuple[str, str]]:
    try:
        opened.load()
    except (OSError, SyntaxError, ValueError) as error:
        yield "truncated_image", f"its pixels cannot all be read: {error}"
        return
    turned = _apply_exif_orientation(opened)  # Detectron2 reads it so, whatever else is in the EXIF
    size = (turned.height, turned.width)
    if image.height is not None and image.width is not None and size != (image.height, image.width):
        stated = f"{image.width} x {image.height}"
        yield "wrong_size", f"the image is {size[1]} x {size[0]}, the annotations say {stated}"
