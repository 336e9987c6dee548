"""Pictures and videos on disk, found and read before a model sees them."""

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
    """A file that is no picture or video, or a damaged one."""


@dataclass(frozen=True)
class Source:
    """One file to predict on.

    Attributes:
        path: of the file.
        name: its path below the folder that was given, or its file name.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """By the ending of its name."""
        return self.path.suffix.lower() in VIDEOS


def find_sources(paths: Sequence[str | Path], output: str | Path) -> list[Source]:
    """The pictures and videos among ``paths`` and in the folders among them, sorted in each.

    Args:
        paths: files, and folders with files of the known endings at any depth.
        output: folder of the results; what lies in it is left out, unless it was given.

    Raises:
        ValueError: a path that does not exist, a file of another kind, folders without pictures,
            two files of one name, or one that a result would overwrite; an output that is a file.
    """
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"output {str(output)!r} is not a folder")
    sources = [source for path in paths for source in _below(Path(path), Path(output))]
    if not sources:
        raise ValueError(
            f"no picture or video ({' '.join((*PICTURES, *VIDEOS))}) in "
            f"{', '.join(str(path) for path in paths)}"
        )
    by_name: dict[str, Source] = {}
    for source in sources:
        # Endings change: a drawn video is always an mp4.
        other = by_name.setdefault(os.path.splitext(source.name)[0].lower(), source)
        if other.path != source.path:
            raise ValueError(
                f"{other.path} and {source.path} would have results of one name: predict on them "
                "one after the other, with different outputs"
            )
        if (Path(output) / source.name).resolve().parent == source.path.resolve().parent:
            raise ValueError(
                f"results beside {source.path} could overwrite it: give another output than "
                f"{str(output)!r}"
            )
    return list(dict.fromkeys(sources))


def _below(path: Path, output: Path) -> Iterator[Source]:
    if path.is_file():
        if path.suffix.lower() not in PICTURES + VIDEOS:
            known = " ".join((*PICTURES, *VIDEOS))
            raise ValueError(f"{path} is not one of the known kinds of files: {known}")
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
    """A picture as Detectron2 reads it, turned as its EXIF orientation says.

    Args:
        path: of the file.
        image_format: channel order, ``"BGR"`` or ``"RGB"``.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableError: it is not there, not a picture or damaged.
    """
    try:
        with Image.open(path) as opened:
            opened.load()  # Detectron2 takes a PNG with damaged pixels for a sound one
            image = convert_PIL_to_numpy(_apply_exif_orientation(opened), image_format)
    # Pillow raises SyntaxError for some broken PNGs.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error
    return np.ascontiguousarray(image)


class VideoFrames:
    """The frames of a video, read one at a time.

    Args:
        path: of the file.
        image_format: channel order of the frames, ``"BGR"`` or ``"RGB"``.

    Attributes:
        fps: frames a second.
        announced: how many frames the file says it has; not all files are right.

    Raises:
        UnreadableError: OpenCV cannot read it; also while iterating, if it has no frame.
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
        """``(H, W, 3)`` uint8 frames."""
        capture, count = self._open(), 0
        try:
            while (frame := capture.read()[1]) is not None:
                count += 1
                is_bgr = self.image_format == "BGR"
                yield frame if is_bgr else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()
        if count == 0:
            raise UnreadableError(f"{self.path} has no frame that can be read")
