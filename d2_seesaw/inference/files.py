"""Predictions on files: what is read, drawn and written for each picture and video.

Detections are written as JSON in the COCO results format, which is LVIS's as well.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils.logger import log_every_n_seconds
from pycocotools import mask as mask_api

from d2_seesaw.data.rle import add_mask_scores
from d2_seesaw.inference.drawing import (
    draw_instances,
    draw_label_map,
    drawing_metadata,
    enlargement,
)
from d2_seesaw.inference.predictor import Predictor, best_instances
from d2_seesaw.inference.sources import Source, UnreadableError, VideoFrames, read_picture
from d2_seesaw.utils.progress import Progress

RESULTS = "results.json"
IMAGES = "images.json"

logger = logging.getLogger(__name__)

LABELS = "labels"


class ResultsWriter:
    """Writes ``results.json`` while predictions come, and ``images.json`` in the end.

    ``images.json`` says which picture, or which frame of a video, each ``image_id`` is and which
    class each ``category_id``, in the form of an annotation file: ``pycocotools.coco.COCO`` reads
    it, and its ``loadRes`` then reads ``results.json``. Both are complete JSON even if predicting
    stops with an exception.

    Args:
        folder: for both; created.
        class_names: in the order of the model's classes.
        category_ids: of the same classes.
    """

    def __init__(self, folder: str | Path, class_names: list[str], category_ids: list[int]) -> None:
        self.folder = Path(folder)
        self.category_ids = category_ids
        self._images: list[dict[str, Any]] = []
        self._categories = [
            {"id": category, "name": name}
            for category, name in zip(category_ids, class_names, strict=True)
        ]

    def __enter__(self) -> "ResultsWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / RESULTS).open("w")
        self._file.write("[")
        self._is_first = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.write("\n]\n")
        self._file.close()
        images = {"images": self._images, "categories": self._categories, "annotations": []}
        (self.folder / IMAGES).write_text(json.dumps(images, indent=1))

    def add_image(self, name: str, size: tuple[int, int], frame: int | None = None) -> int:
        """Note a picture, or a frame of a video counted from 0; returns its ``image_id``."""
        image = {"id": len(self._images) + 1, "file_name": name}
        image |= {"height": size[0], "width": size[1]}
        self._images.append(image if frame is None else image | {"frame": frame})
        return image["id"]

    def add_instances(self, image_id: int, instances: Instances) -> None:
        """Write detections: boxes, scores, and masks and their scores where there are any."""
        detections = instances_to_coco_json(instances, image_id)
        add_mask_scores([{"instances": detections}], [{"instances": instances}])
        self._write({**d, "category_id": self.category_ids[d["category_id"]]} for d in detections)

    def add_label_map(self, image_id: int, labels: np.ndarray) -> None:
        """Write the region of each class in ``(H, W)`` labels, as COCO's stuff results do."""
        self._write(
            {
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "segmentation": _encoded(labels == label),
            }
            for label in np.unique(labels).tolist()
        )

    def _write(self, results: Any) -> None:
        for result in results:
            self._file.write(("\n" if self._is_first else ",\n") + json.dumps(result))
            self._is_first = False


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    rle: Any = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


class FilePredictions:
    """Predicts on files and writes what it finds into a folder.

    In it are ``results.json`` and ``images.json``, see
    :class:`~d2_seesaw.inference.files.ResultsWriter`, and the pictures and videos under their own
    names with the predictions drawn on them; a video as mp4. A model of semantic segmentation also
    writes its classes as 8-bit or, beyond 256 classes, 16-bit PNGs into ``labels``, those of a
    video into a folder per video.

    Args:
        predictor: the model.
        output: the folder.
        score_threshold: lowest score of a detection that is drawn and written.
        max_detections: how many of an image, at most.
        draw: False writes the JSON alone.
        min_side: smaller pictures are drawn enlarged to this short side, in pixels.
    """

    def __init__(
        self,
        predictor: Predictor,
        output: str | Path,
        *,
        score_threshold: float = 0.5,
        max_detections: int | None = None,
        draw: bool = True,
        min_side: int = 0,
    ) -> None:
        self.predictor = predictor
        self.output = Path(output)
        self.limits = {"score_threshold": score_threshold, "max_detections": max_detections}
        self.draw = draw
        self.min_side = min_side
        self._metadata = drawing_metadata(predictor.class_names, predictor.class_colors)

    def check(self, sources: Sequence[Source]) -> None:
        """Refuse files whose results would overwrite each other.

        Raises:
            ValueError: two files whose label maps, or drawn picture and label map, have one name.
        """
        if self.predictor.is_semantic and self.draw:
            _refuse_overwritten_label_maps(sources)

    def run(self, sources: Sequence[Source]) -> list[str]:
        """Predict on all files; returns the messages of those that cannot be read.

        Shows a progress bar in a terminal, and logs a line per picture elsewhere.

        Raises:
            ValueError: see :meth:`check`, before anything is written.
        """
        self.check(sources)
        unreadable = []
        names, ids = self.predictor.class_names, self.predictor.category_ids
        with (
            ResultsWriter(self.output, names, ids) as self._results,
            Progress("predicting", total=len(sources), unit="file") as self._progress,
        ):
            for number, source in enumerate(sources, 1):
                try:
                    found = self._video(source) if source.is_video else self._picture(source)
                    self._say(f"{number}/{len(sources)} {source.name}: {found}")
                except UnreadableError as error:
                    unreadable.append(str(error))
                    self._say(f"{number}/{len(sources)} skipped: {error}", logging.WARNING)
                self._progress.update()
        return unreadable

    def _say(self, message: str, level: int = logging.INFO) -> None:
        if not self._progress.is_bar:
            logger.log(level, message)
        elif level > logging.INFO:
            self._progress.write(message)

    def _picture(self, source: Source) -> str:
        image = read_picture(source.path, self.predictor.image_format)
        image_id = self._results.add_image(source.name, image.shape[:2])
        drawn, found = self._predict(image, image_id, Path(source.name).with_suffix(".png"))
        if drawn is not None:
            _write_image(self.output / source.name, drawn)
        return found

    def _video(self, source: Source) -> str:
        frames = VideoFrames(source.path, self.predictor.image_format)
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
            text = f"{source.path}: {count} frames could be read, it announces {frames.announced}"
            self._say(text, logging.WARNING)
        return f"{count} frames"

    def _frames(self, source: Source, frames: VideoFrames) -> Iterator[np.ndarray | None]:
        stem = Path(source.name).with_suffix("")
        for index, frame in enumerate(frames):
            image_id = self._results.add_image(source.name, frame.shape[:2], frame=index)
            yield self._predict(frame, image_id, stem / f"{index:06d}.png")[0]

    def _predict(
        self, image: np.ndarray, image_id: int, label_name: Path
    ) -> tuple[np.ndarray | None, str]:
        """Write the results of an image; it with them drawn, in BGR, and a word on them."""
        output = self.predictor(image)
        draw: Any
        if self.predictor.is_semantic:
            found = output["sem_seg"].argmax(dim=0).numpy()
            self._results.add_label_map(image_id, found)
            if self.draw:
                depth = np.uint8 if len(self.predictor.class_names) <= 256 else np.uint16
                _write_image(self.output / LABELS / label_name, found.astype(depth))
            draw, text = draw_label_map, f"{len(np.unique(found))} classes"
        else:
            found = best_instances(output["instances"], **self.limits)
            self._results.add_instances(image_id, found)
            draw, text = draw_instances, f"{len(found)} objects"
        if not self.draw:
            return None, text
        rgb = image if self.predictor.image_format == "RGB" else image[:, :, ::-1]
        drawn = draw(rgb, found, self._metadata, enlargement(image.shape[:2], self.min_side))
        return np.ascontiguousarray(drawn[:, :, ::-1]), text


def _refuse_overwritten_label_maps(sources: Sequence[Source]) -> None:
    label_maps = {_label_place(source): source for source in sources}
    for source in sources:
        if source.is_video:
            continue
        drawn, label_map = Path(source.name.lower()), _label_place(source)
        for path in (drawn, label_map):
            is_frame = re.fullmatch(r"\d{6,}\.png", path.name)
            for taken in (path, path.parent) if is_frame else (path,):
                other = label_maps.get(taken, source)
                if other != source:
                    raise ValueError(
                        f"results of {source.path} and label maps of {other.path} would have one "
                        "name: predict on them one after the other, with different outputs"
                    )


def _label_place(source: Source) -> Path:
    """Of a picture the file of its label map, of a video their folder."""
    # In lower case, because some file systems take both cases for one name.
    name = Path(source.name.lower())
    return LABELS / name.with_suffix("" if source.is_video else ".png")


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"{path} cannot be written")


class VideoWriter:
    """An mp4 that takes the size of its first frame.

    Args:
        path: of the file; its folder is created.
        fps: frames a second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Append a ``(H, W, 3)`` BGR frame.

        Raises:
            OSError: this OpenCV cannot write mp4 files, or not there.
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
        """Finish the file, if a frame was written."""
        if self._writer is not None:
            self._writer.release()
