"""Finding and reading pictures and videos."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.image_files import (
    MAX_PIXELS,
    check_overwrites_no_source,
    check_pixels,
    read_image,
    to_array,
)

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
_OPTION = "max_pixels, --max-pixels"


class UnreadableError(ValueError):
    """Error for a file that is damaged, too large, or neither a picture nor a video."""


@dataclass(frozen=True)
class Source:
    """A file to predict on.

    Attributes:
        path: Path of the file.
        name: Path relative to the given folder, or the file name if the file was given.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the suffix is one of ``VIDEOS``."""
        return self.path.suffix.lower() in VIDEOS


def find_sources(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    images_of: str | Path | None = None,
) -> list[Source]:
    """Find pictures and videos, sorted within each folder.

    Args:
        paths: Files, and folders that are searched recursively for files with known suffixes.
        output: Folder of the results. Files inside are skipped unless they were given.
        images_of: Annotations; only the pictures that they list are taken, from a single folder.

    Raises:
        ValueError: a path does not exist or has an unknown suffix, there is no picture or video,
            two results would have the same name, a result would overwrite a source, the output
            is a file, or a listed image is not in the folder.
    """
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"output {str(output)!r} is not a folder")
    sources = [source for path in paths for source in _below(Path(path), Path(output))]
    if images_of is not None:
        sources = _listed(sources, paths, images_of)
    if not sources:
        raise ValueError(
            f"no picture or video ({' '.join((*PICTURES, *VIDEOS))}) found in "
            f"{', '.join(str(path) for path in paths)}"
        )
    by_name: dict[str, Source] = {}
    for source in sources:
        # Without the suffix, because drawn videos are always mp4 files.
        other = by_name.setdefault(os.path.splitext(source.name)[0].lower(), source)
        if other.path != source.path:
            raise ValueError(
                f"{other.path} and {source.path} would have results of the same name: run them "
                "separately, with different outputs"
            )
        check_overwrites_no_source(Path(output) / source.name, [source.path])
    return list(dict.fromkeys(sources))


def _listed(
    sources: Sequence[Source], paths: Sequence[str | Path], json_file: str | Path
) -> list[Source]:
    """Return the sources in a folder that annotations list."""
    if len(paths) != 1 or not os.path.isdir(paths[0]):
        raise ValueError(
            f"the images of {json_file} are looked for in one folder, got "
            f"{', '.join(map(str, paths))}"
        )
    images = [
        i for i in read_annotations(json_file).images if i.get("file_name") or i.get("coco_url")
    ]
    path_of = image_paths(images, paths[0])
    listed = {Path(path).resolve(): path for path in map(path_of, images)}
    found = [source for source in sources if source.path.resolve() in listed]
    missing = listed.keys() - {source.path.resolve() for source in found}
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(listed)} images of {json_file} are not pictures in "
            f"{paths[0]}, such as {min(listed[path] for path in missing)}"
        )
    return found


def _below(path: Path, output: Path) -> Iterator[Source]:
    if path.is_file():
        if path.suffix.lower() not in PICTURES + VIDEOS:
            known = " ".join((*PICTURES, *VIDEOS))
            raise ValueError(f"{path} has none of the supported suffixes: {known}")
        yield Source(path, path.name)
        return
    if not path.is_dir():
        raise ValueError(f"{path} does not exist")
    results = output.resolve()
    inside = path.resolve() != results and not path.resolve().is_relative_to(results)
    for file in sorted(path.rglob("*")):
        known = file.suffix.lower() in PICTURES + VIDEOS and file.is_file()
        if known and not (inside and file.resolve().is_relative_to(results)):
            yield Source(file, str(file.relative_to(path)))


def read_picture(
    path: str | Path, image_format: str = "BGR", *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read a picture as Detectron2 does, rotated by its EXIF orientation.

    Args:
        path: Path of the file.
        image_format: Channel order, ``"BGR"`` or ``"RGB"``.
        max_pixels: Limit of width times height, which are read before the pixels.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableError: the file does not exist, is damaged, has too many pixels or more than 8
            bits a channel, or is not a picture.
    """
    try:
        return read_image(path, image_format, max_pixels=max_pixels, option=_OPTION)
    except Exception as error:  # Pillow's are of many kinds: SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        known = reason.startswith(str(path))
        raise UnreadableError(reason if known else f"{path} cannot be read: {reason}") from error


def as_bgr(image: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image of any supported kind as ``(H, W, 3)`` uint8 in BGR.

    Args:
        image: a path; a Pillow image; or a uint8 array as OpenCV reads it: ``(H, W)`` or
            ``(H, W, 1)`` gray, ``(H, W, 3)`` BGR, or ``(H, W, 4)`` BGRA, whose alpha is dropped.
        max_pixels: Limit for files, see :func:`read_picture`.

    Raises:
        ValueError: another kind, dtype or shape, or a file that cannot be read.
    """
    if isinstance(image, str | Path):
        return read_picture(image, "BGR", max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return to_array(image, "BGR")
    given = type(image).__name__
    if isinstance(image, np.ndarray):
        gray = image[..., None] if image.ndim == 2 else image
        channels = gray.shape[2] if gray.ndim == 3 else 0
        if image.dtype == np.uint8 and image.size and channels in (1, 3, 4):
            repeated = gray.repeat(3, axis=2) if channels == 1 else gray[:, :, :3]
            return np.ascontiguousarray(repeated)
        given = f"an array of {image.dtype} and shape {image.shape}"
    elif image is None:
        given = "None, as cv2.imread returns for a file that it cannot read"
    raise ValueError(
        "an image must be a path, a Pillow image, or a uint8 array of shape (H, W), (H, W, 1), "
        f"(H, W, 3) in BGR or (H, W, 4) in BGRA; got {given}"
    )


class VideoFrames:
    """Frames of a video, read one at a time.

    Args:
        path: Path of the file.
        max_pixels: Limit of width times height of a frame.

    Attributes:
        fps: Frames per second.
        announced: Number of frames in the header of the file, which may be wrong.

    Raises:
        UnreadableError: OpenCV cannot read the file, its frames are too large, or (during
            iteration) it has no frames.
    """

    def __init__(self, path: str | Path, *, max_pixels: int = MAX_PIXELS) -> None:
        self.path = path
        capture = self._open()
        width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        size = int(capture.get(width)), int(capture.get(height))
        try:
            check_pixels(path, size, max_pixels, _OPTION)
        except ValueError as error:
            raise UnreadableError(str(error)) from error
        self.fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.announced = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise UnreadableError(f"{self.path} cannot be read as a video")
        return capture

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield ``(H, W, 3)`` uint8 frames in BGR."""
        capture, count = self._open(), 0
        try:
            while (frame := capture.read()[1]) is not None:
                count += 1
                yield frame
        finally:
            capture.release()
        if count == 0:
            raise UnreadableError(f"{self.path} has no readable frame")
