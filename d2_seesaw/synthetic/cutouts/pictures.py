"""Reading of pictures: cut-outs with an alpha mask, and backgrounds.

Shapes in this module:
    H, W: height and width of a picture
"""

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from d2_seesaw.data.image_files import has_wide_channels, has_wide_mode
from d2_seesaw.utils.text import printable

OPAQUE = 128  # alpha from which on a pixel belongs to the mask
BACKGROUND_MARGIN = 2.5  # working copies of backgrounds are at most this much larger than scenes
_MIN_OPAQUE_PIXELS = 64
_MIN_BACKGROUND_SIDE = 16
_MAX_PIXELS = 100_000_000
_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
_VECTOR_SUFFIXES = frozenset({".svg", ".svgz"})


class UnusablePictureError(ValueError):
    """Reason for leaving a picture out."""


@dataclass
class LeftOut:
    """Pictures and folders that are not used, by reason."""

    by_reason: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    folders: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def lines(self) -> list[str]:
        """Return one line for each reason, without control characters of file names."""
        return [
            f"left out {len(paths)} {what}{'s' * (len(paths) > 1)}: {reason} "
            f"(first: {printable(paths[0])})"
            for what, by_reason in (("folder", self.folders), ("picture", self.by_reason))
            for reason, paths in by_reason.items()
        ]


def find_pictures(folder: Path, left_out: LeftOut) -> list[str]:
    """Return the paths of all pictures below a folder, relative to it, sorted.

    Folders that are links are not followed: they may lead in circles, out of the folder, or to
    the same pictures twice.

    Args:
        folder: folder to search.
        left_out: gets the folders that are links or cannot be opened.
    """

    def relative(path: str | os.PathLike[str]) -> str:
        return Path(path).relative_to(folder).as_posix()

    def unopened(error: OSError) -> None:
        left_out.folders[f"cannot be opened, {error.strerror}"].append(relative(error.filename))

    found = []
    for parent, folders, names in os.walk(folder, onerror=unopened):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        if links:
            reason = "links to folders are not followed"
            left_out.folders[reason].extend(relative(os.path.join(parent, n)) for n in links)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if not name.startswith(".") and suffix in _SUFFIXES | _VECTOR_SUFFIXES:
                found.append(relative(os.path.join(parent, name)))
    return sorted(found)


def without_vector_graphics(paths: Iterable[str], left_out: LeftOut) -> list[str]:
    """Return the paths of pictures made of pixels."""
    kept = []
    for path in paths:
        if os.path.splitext(path)[1].lower() in _VECTOR_SUFFIXES:
            left_out.by_reason["vector graphics are not read"].append(path)
        else:
            kept.append(path)
    return kept


def choose_by_patterns(
    paths: Iterable[str], include: Sequence[str], exclude: Sequence[str], what: str = "pictures"
) -> list[str]:
    """Return the paths that match a pattern to include and none to exclude.

    Raises:
        ValueError: a pattern matches no path.
    """
    paths = list(paths)
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise ValueError(
                    f"{option} {pattern!r} matches none of {len(paths)} {what}: patterns are "
                    f"compared with whole paths such as {paths[0] if paths else 'birds/duck.png'!r}"
                )
    return [
        path
        for path in paths
        if (not include or any(fnmatchcase(path, pattern) for pattern in include))
        and not any(fnmatchcase(path, pattern) for pattern in exclude)
    ]


def read_pixels(path: Path, mode: str) -> np.ndarray:
    """Read the first frame of a picture, upright, as ``(H, W, 3 or 4)`` uint8.

    Args:
        path: picture.
        mode: "RGB" or "RGBA".

    Raises:
        UnusablePictureError: the file cannot be decoded, has too many pixels or more than 16 bits
            a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size and metadata; errors are reported below
            with Image.open(path) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise UnusablePictureError(f"more than {_MAX_PIXELS // 10**6} million pixels")
                is_keyed = "transparency" in image.info and has_wide_channels(image)
                pixels = np.asarray(_upright(image).convert(mode))
    except Image.DecompressionBombError as error:
        raise UnusablePictureError(f"more than {_MAX_PIXELS // 10**6} million pixels") from error
    except UnusablePictureError:
        raise
    except Exception as error:  # decoders of strangers' files raise errors of any type
        raise UnusablePictureError("cannot be read") from error
    if is_keyed and mode == "RGBA" and pixels[..., 3].min() == 255:
        raise UnusablePictureError("its transparent color has 16 bits and is not read")
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    if has_wide_mode(image):  # Pillow would clip 16 bits to 8
        values = np.asarray(image)
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
            raise UnusablePictureError(f"more than 16 bits a channel (mode {image.mode})")
        return Image.fromarray((values >> 8 if values.max() > 255 else values).astype(np.uint8))
    return ImageOps.exif_transpose(image)


def mask_box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the opaque pixels; all 0 if there are none."""
    return _box(alpha >= OPAQUE)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def read_cutout(path: Path, longest_side: int) -> tuple[np.ndarray, str]:
    """Read a cut-out, cropped to its visible pixels.

    Args:
        path: picture with transparency.
        longest_side: the opaque part is reduced to this length in pixels if it is longer.

    Returns:
        ``(H, W, 4)`` uint8 RGBA, not premultiplied, and a hash of the pixels before the reduction
        that is the same for mirrored pictures.

    Raises:
        UnusablePictureError: the file cannot be used.
    """
    pixels = read_pixels(path, "RGBA")
    alpha = pixels[..., 3]
    if alpha.min() == 255:
        raise UnusablePictureError("without transparency")
    if np.count_nonzero(alpha >= OPAQUE) < _MIN_OPAQUE_PIXELS:
        raise UnusablePictureError(f"fewer than {_MIN_OPAQUE_PIXELS} opaque pixels")
    left, top, right, bottom = _box(alpha > 0)
    pixels = pixels[top:bottom, left:right] * (alpha[top:bottom, left:right, None] > 0)
    identity = _identity(pixels)
    left, top, right, bottom = mask_box(pixels[..., 3])
    return reduce_picture(pixels, longest_side / max(right - left, bottom - top)), identity


def _identity(pixels: np.ndarray) -> str:
    """Return a hash of a picture that is the same if it is mirrored."""
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    return min(hashlib.sha256(_bytes(p)).hexdigest() for p in (pixels, mirrored))


def _bytes(pixels: np.ndarray) -> bytes:
    return str(pixels.shape).encode() + pixels.tobytes()


def read_background(path: Path, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Read a background as ``(H, W, 3)`` uint8 RGB, not much larger than scenes need.

    Args:
        path: picture.
        shape: height and width of the scenes.

    Returns:
        The pixels, and a hash of them before the reduction that is the same for mirrored pictures.

    Raises:
        UnusablePictureError: the file cannot be used.
    """
    pixels = read_pixels(path, "RGB")
    height, width = pixels.shape[:2]
    if min(height, width) < _MIN_BACKGROUND_SIDE:
        raise UnusablePictureError(f"smaller than {_MIN_BACKGROUND_SIDE} pixels")
    factor = BACKGROUND_MARGIN * max(shape[0] / height, shape[1] / width)
    return reduce_picture(pixels, factor), _identity(pixels)


def reduce_picture(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Resize a picture by ``factor``, if that makes it smaller; colors weighted by alpha."""
    if factor >= 1:
        return pixels
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    # Pillow premultiplies RGBA for this, and its arithmetic in integers is the same everywhere.
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
