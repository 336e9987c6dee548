"""Check of image files: each is read as training reads it, several at a time."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from detectron2.data.detection_utils import _apply_exif_orientation
from PIL import Image

from d2_seesaw.data.check.issues import Issue
from d2_seesaw.data.image_files import has_wide_channels, open_image, pixel_limit
from d2_seesaw.utils.progress import track

_HUGE = threading.Lock()  # two huge images at once could fill the memory


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
    if not os.path.getsize(image.path):
        yield "unreadable_image", "the file is empty"
        return
    try:
        with open_image(image.path) as opened:
            yield from _problems_of_format(opened)
            pixels = opened.width * opened.height
            if (limit := pixel_limit()) is not None and pixels > limit // 2:
                yield (
                    "huge_image",
                    f"{opened.width} x {opened.height} pixels take {3e-9 * pixels:.1f} GB, and "
                    "without a resize many times that in a model",
                )
                with _HUGE:
                    yield from _problems_of_pixels(opened, image)
            else:
                yield from _problems_of_pixels(opened, image)
    except Exception as error:  # Pillow raises errors of many kinds
        yield "unreadable_image", str(error) or type(error).__name__


def _problems_of_format(opened: Image.Image) -> Iterator[tuple[str, str]]:
    if opened.mode == "CMYK":
        yield "cmyk_image", "the image is CMYK"
    elif has_wide_channels(opened):
        yield "sixteen_bit_image", f"the image has more than 8 bits a channel (mode {opened.mode})"
    frames = getattr(opened, "n_frames", 1) if opened.format != "MPO" else 1  # with a preview
    if frames > 1:
        yield "animated_image", f"the file has {frames:,} frames"


def _problems_of_pixels(opened: Image.Image, image: ImageFile) -> Iterator[tuple[str, str]]:
    stored = (opened.width, opened.height)
    try:
        opened.load()
    except (OSError, SyntaxError, ValueError) as error:
        yield "truncated_image", f"its pixels cannot all be read: {error}"
        return
    turned = _apply_exif_orientation(opened)  # Detectron2 reads it so, whatever else is in the EXIF
    size, stated = turned.size, (image.width, image.height)
    exif = turned is not opened
    if None not in stated and size != stated:
        message = (
            f"the image is {size[0]} x {size[1]}, the annotations say {stated[0]} x {stated[1]}"
        )
        if exif and stored == stated:
            message += ", which is its size before its EXIF turns it"
        yield "wrong_size", message
    elif exif:
        message = "its EXIF turns the image"
        if size != stored and None not in stated:
            message += "; the annotations have the size of the turned image"
        yield "exif_orientation", message
