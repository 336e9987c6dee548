"""Finding and reading pictures and videos."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from PIL import Image

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


class UnreadableError(ValueError):
    """Error for a file that is damaged, or neither a picture nor a video."""


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


def find_sources(paths: Sequence[str | Path], output: str | Path) -> list[Source]:
    """Find pictures and videos, sorted within each folder.

    Args:
        paths: Files, and folders that are searched recursively for files with known suffixes.
        output: Folder of the results. Files inside are skipped unless they were given.

    Raises:
        ValueError: a path does not exist or has an unknown suffix, there is no picture or video,
            two results would have the same name, a result would overwrite a source, or the output
            is a file.
    """
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"output {str(output)!r} is not a folder")
    sources = [source for path in paths for source in _below(Path(path), Path(output))]
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
        if (Path(output) / source.name).resolve().parent == source.path.resolve().parent:
            raise ValueError(
                f"results next to {source.path} could overwrite it: choose another output than "
                f"{str(output)!r}"
            )
    return list(dict.fromkeys(sources))


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


def read_picture(path: str | Path, image_format: str) -> np.ndarray:
    """Read a picture as Detectron2 does, rotated by its EXIF orientation.

    Args:
        path: Path of the file.
        image_format: Channel order, ``"BGR"`` or ``"RGB"``.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableError: the file does not exist, is damaged or is not a picture.
    """
    try:
        with Image.open(path) as opened:
            opened.load()  # Detectron2 accepts a PNG with damaged pixels
            image = convert_PIL_to_numpy(_apply_exif_orientation(opened), image_format)
    # Pillow raises SyntaxError for some broken PNGs.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error
    return np.ascontiguousarray(image)


class VideoFrames:
    """Frames of a video, read one at a time.

    Args:
        path: Path of the file.
        image_format: Channel order of the frames, ``"BGR"`` or ``"RGB"``.

    Attributes:
        fps: Frames per second.
        announced: Number of frames in the header of the file, which may be wrong.

    Raises:
        UnreadableError: OpenCV cannot read the file, or (during iteration) it has no frames.
    """

    def __init__(self, path: str | Path, image_format: str) -> None:
        self.path = path
        self.image_format = image_format
        capture = self._open()
        self.fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.announced = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise UnreadableError(f"{self.path} cannot be read as a video")
        return capture

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield ``(H, W, 3)`` uint8 frames."""
        capture, count = self._open(), 0
        try:
            while (frame := capture.read()[1]) is not None:
                count += 1
                is_bgr = self.image_format == "BGR"
                yield frame if is_bgr else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()
        if count == 0:
            raise UnreadableError(f"{self.path} has no readable frame")
