"""Opening of image files from any source: where they are, their format and their number of pixels.

A small file can hold a picture that fills the memory, a name can lead to any file of the machine,
and some formats run other programs. Every command opens images through this module.
"""

import os
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""Default limit of pixels of a picture to show or to predict on.

Reading takes 3 bytes for each, a model may need several hundred.
"""

_OTHER_PROGRAMS = frozenset({"EPS", "WMF"})  # draw these formats for Pillow

_PILLOW = threading.Lock()  # its limit and Python's warnings belong to all threads


def pixel_limit() -> int | None:
    """Return the number of pixels up to which Pillow opens an image; None without a limit.

    It is twice ``PIL.Image.MAX_IMAGE_PIXELS``, 178,956,970 by default.
    """
    with _PILLOW:
        limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else 2 * limit


def check_pixels(
    path: str | os.PathLike[str], size: tuple[int, int], limit: int | None, option: str
) -> None:
    """Refuse an image with more pixels than the limit.

    Args:
        path: The file.
        size: Width and height.
        limit: Number of pixels; None for any.
        option: How to raise the limit, for the message.

    Raises:
        ValueError: The message has all of these.
    """
    width, height = size
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{os.fspath(path)} has {width} x {height} = {width * height:,} pixels, the limit is "
            f"{limit:,} ({option} raises it)"
        )


@contextmanager
def open_image(
    path: str | os.PathLike[str], *, max_pixels: int | None = None, option: str = "max_pixels"
) -> Iterator[Image.Image]:
    """Open an image file, of which only the header has been read.

    Args:
        path: The file.
        max_pixels: Limit of width times height; by default :func:`pixel_limit`.
        option: How to raise the limit, for the message.

    Raises:
        ValueError: more pixels than the limit; a pipe or device; a format that Pillow leaves to
            another program.
        OSError: the file does not exist, or is not an image. Pillow also raises other errors for
            damaged files.
    """
    if max_pixels is None:
        max_pixels, option = pixel_limit(), "PIL.Image.MAX_IMAGE_PIXELS"
    with _open_regular(path) as file:
        with _PILLOW, warnings.catch_warnings():
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(file)
            except UnidentifiedImageError as error:
                # Pillow names the open file, and not its path.
                raise UnidentifiedImageError("cannot identify image file") from error
            finally:
                Image.MAX_IMAGE_PIXELS = before
        with image:
            if image.format in _OTHER_PROGRAMS:
                raise ValueError(f"{os.fspath(path)} is {image.format}: convert it to PNG or JPEG")
            check_pixels(path, image.size, max_pixels, option)
            yield image


def has_wide_mode(image: Image.Image) -> bool:
    """Return whether Pillow would clip the channels of an image to 8 bits, mostly to white.

    These are its modes of one channel of 16 or 32 bits: I, I;16 in any byte order, and F.
    """
    return image.mode.startswith(("I", "F"))


def has_wide_channels(image: Image.Image) -> bool:
    """Return whether a file has more than 8 bits a channel, before its pixels are read.

    Of three or four channels of 16 bits, Pillow reads the upper 8 bits.
    """
    tiles = getattr(image, "tile", None)
    return has_wide_mode(image) or (bool(tiles) and ";16" in str(tiles[0][3]))


def check_mode(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Refuse an image whose channels would be clipped to 8 bits.

    Args:
        path: The file, or another name for the message.
        image: The image, whose pixels need not be read.

    Raises:
        ValueError: The message has path, mode and what is expected.
    """
    if has_wide_mode(image):
        raise ValueError(
            f"{os.fspath(path)} has more than 8 bits a channel (mode {image.mode}), which would be "
            "clipped: convert it to 8 bits, such as mode L or RGB"
        )


def check_overwrites_no_source(result: str | os.PathLike[str], sources: Iterable[Any]) -> None:
    """Refuse to write a result beside the images that it is made of, where it could replace one.

    Args:
        result: Path of the result.
        sources: Paths of the images.

    Raises:
        ValueError: an image is in the folder of the result.
    """
    folder = os.path.dirname(os.path.realpath(result))
    for source in sources:
        if os.path.dirname(os.path.realpath(source)) == folder:
            raise ValueError(
                f"results next to {os.fspath(source)} could overwrite it: choose another output "
                f"than {os.path.dirname(os.fspath(result)) or os.curdir!r}"
            )


def _open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    # Opening a pipe would wait for its writer.
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{os.fspath(path)} is not a file, but a pipe, device or socket")
    return file


def read_image(
    path: str | os.PathLike[str],
    image_format: str,
    *,
    max_pixels: int = MAX_PIXELS,
    option: str = "max_pixels",
) -> np.ndarray:
    """Read an image as Detectron2 does, rotated by its EXIF orientation.

    Args:
        path: The file.
        image_format: Channel order, ``"BGR"`` or ``"RGB"``.
        max_pixels: Limit of width times height.
        option: How to raise the limit, for the message.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError, OSError: as :func:`open_image` and :func:`check_mode`.
    """
    with open_image(path, max_pixels=max_pixels, option=option) as image:
        check_mode(path, image)
        image.load()  # Detectron2 accepts a PNG with damaged pixels
        return to_array(image, image_format)


def to_array(image: Image.Image, image_format: str) -> np.ndarray:
    """Return a Pillow image as Detectron2 reads it: ``(H, W, 3)`` uint8.

    Raises:
        ValueError: as :func:`check_mode`.
    """
    check_mode("the image", image)
    array = convert_PIL_to_numpy(_apply_exif_orientation(image), image_format)
    return np.ascontiguousarray(array)


@dataclass(frozen=True)
class ImageFolder:
    """Folder of a dataset, whose images may be shown in pages and drawings.

    Pages and drawings are passed on, so they must not contain other pictures of the machine.

    Attributes:
        root: The folder.
        follow_links: Whether symbolic links in the folder may lead out of it.
        max_pixels: Limit of pixels of an image.
    """

    root: str | os.PathLike[str]
    follow_links: bool = False
    max_pixels: int = MAX_PIXELS

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image of the folder as ``(H, W, 3)`` uint8 in RGB.

        Raises:
            ValueError, OSError: as :func:`read_image` and :meth:`path_inside`.
        """
        file = self.path_inside(path)
        return read_image(file, "RGB", max_pixels=self.max_pixels, option="--max-pixels")

    def path_inside(self, path: str | os.PathLike[str]) -> str:
        """Return the path to read.

        Raises:
            ValueError: the file is outside of the folder: by ``..``, as an absolute path or URL,
                or, without ``follow_links``, by a symbolic link.
        """
        named, root = os.path.abspath(path), os.path.abspath(self.root)
        if not _is_below(named, root):
            raise ValueError(
                f"{os.fspath(path)} is outside of {os.fspath(self.root)}, whose images alone are "
                "shown"
            )
        file = os.path.realpath(named)
        if _is_below(file, os.path.realpath(root)):
            return file
        if not self.follow_links:
            raise ValueError(
                f"{os.fspath(path)} links to a file outside of {os.fspath(self.root)}, whose "
                "images alone are shown; --follow-links shows linked images, too"
            )
        return named


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def check_record_image(record: Mapping[str, Any]) -> None:
    """Refuse the image of a record that is a bomb or has 16 bits, before a model's mapper reads it.

    Label maps are not looked at. Pillow's limit holds. An image of more than :data:`MAX_PIXELS`
    must have the size that the record states, in either orientation.

    Raises:
        ValueError: such an image. Other files, and files that are missing, are left to the mapper.
    """
    path = record.get("file_name")
    if path is None or not os.path.isfile(path):
        return
    try:
        with open_image(path) as image:
            check_mode(path, image)
            width, height = image.size
    except UnidentifiedImageError:
        return
    stated = (record.get("width"), record.get("height"))
    if None in stated or width * height <= MAX_PIXELS:
        return
    if (width, height) not in (stated, stated[::-1]):
        raise ValueError(
            f"the image is {width} x {height}, its annotations say {stated[0]} x {stated[1]}"
        )
