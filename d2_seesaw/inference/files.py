"""Prediction on files: what is written and drawn for each picture and video."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.utils.logger import log_every_n_seconds

from d2_seesaw.engine.trainer import is_out_of_memory
from d2_seesaw.evaluation.predictions.results_file import (
    PredictionRecord,
)
from d2_seesaw.inference.drawing import (
    draw_instances,
    draw_label_map,
    drawing_metadata,
    enlargement,
)
from d2_seesaw.inference.output_folder import (
    LABELS,
    ResultsWriter,
    check_output,
    record_output,
)
from d2_seesaw.inference.predictor import Predictor, best_instances
from d2_seesaw.inference.sources import (
    MAX_PIXELS,
    Source,
    UnreadableError,
    VideoFrames,
    read_picture,
)
from d2_seesaw.inference.thresholds import ScoreCounts, ScoreThresholds
from d2_seesaw.utils.files import atomic_write
from d2_seesaw.utils.progress import Progress

logger = logging.getLogger(__name__)


class FilePredictions:
    """Prediction on files, with results and drawings in a folder.

    The folder gets ``results.json`` and ``images.json`` (see
    :class:`~d2_seesaw.inference.output_folder.ResultsWriter`). Predictions are drawn on pictures
    and videos of the same names; videos become mp4 files. A model of semantic segmentation also
    writes label maps below ``labels``, with one folder per video. They are PNGs of 8 bits, or of 16
    bits for more than 256 classes.

    Args:
        predictor: Model with its transforms and names.
        output: Folder of the results.
        score_threshold: Lowest score of a detection that is drawn and written; by default the
            thresholds of the predictor, or 0.5 if it has none.
        max_detections: Limit of detections per image; no limit if None.
        draw: False writes only the JSON files.
        min_side: Short side in pixels to which smaller pictures are enlarged for drawing.
        max_pixels: Limit of pixels of a picture or frame; larger ones are skipped.
        overwrite: Replace files in the folder that no earlier prediction has written.
    """

    def __init__(
        self,
        predictor: Predictor,
        output: str | Path,
        *,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        draw: bool = True,
        min_side: int = 0,
        max_pixels: int = MAX_PIXELS,
        overwrite: bool = False,
    ) -> None:
        self.predictor = predictor
        self.output = Path(output)
        thresholds = predictor.thresholds
        if thresholds is None or score_threshold is not None:
            value = 0.5 if score_threshold is None else score_threshold
            thresholds = ScoreThresholds.uniform(value, len(predictor.class_names))
        self.thresholds = thresholds
        self.max_detections = max_detections
        self.draw = draw
        self.min_side = min_side
        self.max_pixels = max_pixels
        self.overwrite = overwrite
        self.scores = ScoreCounts()
        self.num_passed = 0
        self._metadata = drawing_metadata(predictor.class_names, predictor.class_colors)

    def check(self, sources: Sequence[Source]) -> None:
        """Check that no result overwrites another one, or a file of the user's.

        Raises:
            ValueError: the label map of a file has the path of another label map or drawing.
            FileExistsError: without ``overwrite``, a file that would be replaced is not from an
                earlier prediction.
        """
        if self.predictor.is_semantic and self.draw:
            _refuse_overwritten_label_maps(sources)
        if not self.overwrite:
            check_output(self.output, sources, **self._kinds)

    @property
    def _kinds(self) -> dict[str, bool]:
        return {"draw": self.draw, "label_maps": self.predictor.is_semantic}

    def advice(self) -> str:
        """Return how many of the detections passed so far, and what lower thresholds give."""
        values = self.thresholds.values
        same = len(values) and (values == values[0]).all()
        threshold = float(values[0]) if same else self.thresholds.rule
        return self.scores.advice(threshold, self.num_passed)

    def run(self, sources: Sequence[Source]) -> list[str]:
        """Predict on all files and return the error messages of those that were skipped.

        A file is skipped if it cannot be read, is too large, takes more memory than there is, or if
        predicting on it or drawing it fails. Frames of a video before a failure keep their results.

        Progress is a bar in a terminal and one log line per picture elsewhere.

        Raises:
            ValueError, FileExistsError: see :meth:`check`; nothing is written then.
            OSError: results cannot be written.
            RuntimeError: the GPU failed, after which nothing runs on it.
        """
        self.check(sources)
        record_output(self.output, sources, **self._kinds)
        unreadable = []
        names, ids = self.predictor.class_names, self.predictor.category_ids
        with (
            ResultsWriter(self.output, names, ids, self._record()) as self._results,
            Progress("predicting", total=len(sources), unit="file") as self._progress,
        ):
            for number, source in enumerate(sources, 1):
                try:
                    found = self._video(source) if source.is_video else self._picture(source)
                    self._say(f"{number}/{len(sources)} {source.name}: {found}")
                except Exception as error:  # model and drawing may raise anything
                    if _concerns_all_files(error):
                        raise
                    reason = _reason_to_skip(source, error)
                    unreadable.append(reason)
                    self._say(f"{number}/{len(sources)} skipped: {reason}", logging.WARNING)
                self._progress.update()
        return unreadable

    def _record(self) -> PredictionRecord:
        values = self.thresholds.values
        if self.predictor.is_semantic or not len(values):
            return PredictionRecord()
        return PredictionRecord(
            threshold=self.thresholds.rule,
            lowest_threshold=float(values.min()),
            highest_threshold=float(values.max()),
            max_detections=self.max_detections,
            scores=self.predictor.origin.recorded(),
        )

    def _say(self, message: str, level: int = logging.INFO) -> None:
        if not self._progress.is_bar:
            logger.log(level, message)
        elif level > logging.INFO:
            self._progress.write(message)

    def _picture(self, source: Source) -> str:
        image = read_picture(source.path, max_pixels=self.max_pixels)
        label_name = Path(source.name).with_suffix(".png")
        drawn, found = self._predict(image, source.name, None, label_name)
        if drawn is not None:
            _write_image(self.output / source.name, drawn)
        return found

    def _video(self, source: Source) -> str:
        frames = VideoFrames(source.path, max_pixels=self.max_pixels)
        count = 0
        path = (self.output / source.name).with_suffix(".mp4")
        with closing(VideoWriter(path, frames.fps)) as video:
            for drawn in self._frames(source, frames):
                count += 1
                if drawn is not None:
                    video.write(drawn)
                self._progress.detail(f"{source.name} {count}/{frames.announced}")
                if not self._progress.is_bar:
                    text = f"{source.name}: {count} of {frames.announced} frames"
                    log_every_n_seconds(logging.INFO, text, n=5, name=__name__)
        if count < frames.announced:
            text = f"{source.path}: read {count} of {frames.announced} announced frames"
            self._say(text, logging.WARNING)
        return f"{count} frames"

    def _frames(self, source: Source, frames: VideoFrames) -> Iterator[np.ndarray | None]:
        stem = Path(source.name).with_suffix("")
        for index, frame in enumerate(frames):
            yield self._predict(frame, source.name, index, stem / f"{index:06d}.png")[0]

    def _predict(
        self, image: np.ndarray, name: str, frame: int | None, label_name: Path
    ) -> tuple[np.ndarray | None, str]:
        """Write the results of an image (BGR); return its drawing (BGR) and a summary."""
        output = self.predictor.predict_all(image)
        # Drawing comes first, so that an image that cannot be drawn leaves no results.
        if self.predictor.is_semantic:
            found = output["sem_seg"].argmax(dim=0).numpy()
            drawn = self._drawing(draw_label_map, image, found)
            image_id = self._results.add_image(name, image.shape[:2], frame=frame)
            self._results.add_label_map(image_id, found)
            if self.draw:
                depth = np.uint8 if len(self.predictor.class_names) <= 256 else np.uint16
                _write_image(self.output / LABELS / label_name, found.astype(depth))
            return drawn, f"{len(np.unique(found))} classes"
        passed = self.thresholds.select(output["instances"])
        found = best_instances(passed, max_detections=self.max_detections)
        drawn = self._drawing(draw_instances, image, found)
        self.scores.add(output["instances"].scores.numpy())
        self.num_passed += len(passed)
        image_id = self._results.add_image(name, image.shape[:2], frame=frame)
        self._results.add_instances(image_id, found)
        return drawn, f"{len(found)} objects"

    def _drawing(self, draw: Any, image: np.ndarray, found: Any) -> np.ndarray | None:
        """Return the drawing (BGR) of what was found in an image (BGR); None without drawings."""
        if not self.draw:
            return None
        scale = enlargement(image.shape[:2], self.min_side)
        drawn = draw(image[:, :, ::-1], found, self._metadata, scale)
        return np.ascontiguousarray(drawn[:, :, ::-1])


def _concerns_all_files(error: Exception) -> bool:
    """Return whether an error would come again for the files after it.

    Files that cannot be read are not among them: their errors are ``UnreadableError``.
    """
    if isinstance(error, OSError | ImportError):  # results cannot be written; no package
        return True
    lost = "CUDA error" in str(error) and not is_out_of_memory(error)
    return isinstance(error, RuntimeError) and lost


def _reason_to_skip(source: Source, error: Exception) -> str:
    if isinstance(error, UnreadableError):
        return str(error)
    if is_out_of_memory(error):
        return f"{source.path} takes more memory than there is"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{source.path} cannot be predicted on: {reason}"


def _refuse_overwritten_label_maps(sources: Sequence[Source]) -> None:
    label_maps = {_label_path(source): source for source in sources}
    for source in sources:
        if source.is_video:
            continue
        drawn, label_map = Path(source.name.lower()), _label_path(source)
        for path in (drawn, label_map):
            is_frame = re.fullmatch(r"\d{6,}\.png", path.name)
            for taken in (path, path.parent) if is_frame else (path,):
                other = label_maps.get(taken, source)
                if other != source:
                    raise ValueError(
                        f"results of {source.path} and label maps of {other.path} would have the "
                        "same path: run them separately, with different outputs"
                    )


def _label_path(source: Source) -> Path:
    """Return the label map of a picture, or the folder of the label maps of a video."""
    # In lower case, because some file systems do not distinguish cases.
    name = Path(source.name.lower())
    return LABELS / name.with_suffix("" if source.is_video else ".png")


def _write_image(path: Path, image: np.ndarray) -> None:
    _, encoded = cv2.imencode(path.suffix, image)
    # A folder of pictures is drawn again in little time, so none of them waits for the disk.
    with atomic_write(path, durable=False) as file:
        file.write(encoded.tobytes())


class VideoWriter:
    """Writer of an mp4 file with the size of its first frame.

    OpenCV writes to the path directly, so an interrupted video is left unfinished.

    Args:
        path: Path of the file; its folder is created.
        fps: Frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Append a ``(H, W, 3)`` BGR frame.

        Raises:
            OSError: OpenCV cannot write mp4 files, or not to this path.
        """
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            height, width = frame.shape[:2]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"{self.path} cannot be written by this OpenCV")
        self._writer.write(frame)

    def close(self) -> None:
        """Finish the file if a frame was written."""
        if self._writer is not None:
            self._writer.release()
