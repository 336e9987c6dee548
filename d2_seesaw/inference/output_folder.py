"""Output folder of predictions: results and their images, and which files are the user's own.

Detections are written as JSON in the COCO results format, which is also the format of LVIS.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from detectron2.structures import Instances

from d2_seesaw.data.rle import encode_bitmap
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.results_file import (
    PREDICTED_IMAGES,
    PREDICTED_RESULTS,
    PredictionRecord,
)
from d2_seesaw.inference.sources import Source
from d2_seesaw.utils.files import atomic_write, write_text
from d2_seesaw.utils.marks import check_replaceable, record_files, recorded_files

LABELS = "labels"

_FRAME = re.compile(r"\d{6,}\.png")


def check_output(
    output: str | Path, sources: Sequence[Source], *, draw: bool, label_maps: bool
) -> None:
    """Refuse to replace files that no earlier prediction has written.

    Args:
        output: Folder of the results.
        sources: Files to predict on.
        draw: Whether pictures, videos and label maps are written.
        label_maps: Whether the model predicts label maps.

    Raises:
        FileExistsError: a file of the user's would be replaced.
    """
    known = recorded_files(output)
    for name in _written(sources, draw=draw, label_maps=label_maps):
        path = Path(output, name)
        replaced = [path]
        if name.endswith("/"):
            replaced = [p for p in sorted(path.glob("*.png")) if _FRAME.fullmatch(p.name)]
        check_replaceable(() if name in known else replaced)


def record_output(
    output: str | Path, sources: Sequence[Source], *, draw: bool, label_maps: bool
) -> None:
    """Record what is going to be written, so that a later prediction may replace it.

    Raises:
        WriteError: the record cannot be written.
    """
    record_files(output, _written(sources, draw=draw, label_maps=label_maps))


def _written(sources: Sequence[Source], *, draw: bool, label_maps: bool) -> Iterator[str]:
    """Yield the paths of results, drawings and label maps, for a video their folder with ``/``."""
    yield from (PREDICTED_RESULTS, PREDICTED_IMAGES)
    for source in sources if draw else ():
        name = Path(source.name)
        yield (name.with_suffix(".mp4") if source.is_video else name).as_posix()
        if label_maps:
            maps = (LABELS / name.with_suffix("" if source.is_video else ".png")).as_posix()
            yield f"{maps}/" if source.is_video else maps


class ResultsWriter:
    """Writer of ``results.json``, incrementally, and of ``images.json``.

    ``images.json`` maps each ``image_id`` to a picture or to a frame of a video, and each
    ``category_id`` to the name of a class. It has the form of an annotation file:
    ``pycocotools.coco.COCO`` reads it, and its ``loadRes`` then reads ``results.json``. Its
    ``info`` says which detections are left out.

    Both files appear when the ``with`` block ends. If it ends with an exception, they hold the
    results up to then.

    Args:
        folder: Folder of both files; created.
        class_names: Names in the order of the model's classes.
        category_ids: Ids of the same classes.
        record: Thresholds and limit of the detections; by default there are none.
    """

    def __init__(
        self,
        folder: str | Path,
        class_names: list[str],
        category_ids: list[int],
        record: PredictionRecord | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.category_ids = category_ids
        self.record = record or PredictionRecord()
        self._images: list[dict[str, Any]] = []
        self._categories = [
            {"id": category, "name": name}
            for category, name in zip(category_ids, class_names, strict=True)
        ]

    def __enter__(self) -> "ResultsWriter":
        self._open = ExitStack()
        self._file = self._open.enter_context(atomic_write(self.folder / PREDICTED_RESULTS))
        self._bytes = self._file.write(b"[")
        self._separator = "\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._open:
            self._bytes += self._file.write(b"\n]\n")
        images = {
            "info": replace(self.record, results_bytes=self._bytes).to_info(),
            "images": self._images,
            "categories": self._categories,
            "annotations": [],
        }
        write_text(self.folder / PREDICTED_IMAGES, json.dumps(images, indent=1))

    def add_image(self, name: str, size: tuple[int, int], frame: int | None = None) -> int:
        """Add a picture, or a frame of a video counted from 0, and return its ``image_id``."""
        image = {"id": len(self._images) + 1, "file_name": name}
        image |= {"height": size[0], "width": size[1]}
        self._images.append(image if frame is None else image | {"frame": frame})
        return image["id"]

    def add_instances(self, image_id: int, instances: Instances) -> None:
        """Write detections with all that the model predicts for them."""
        category_of_class = dict(enumerate(self.category_ids))
        self._write(Detections.from_instances(instances, image_id, category_of_class).results())

    def add_label_map(self, image_id: int, labels: np.ndarray) -> None:
        """Write the region of each class in ``(H, W)`` labels, in the format of COCO's stuff."""
        for label in np.unique(labels).tolist():
            rle = encode_bitmap(labels == label)
            region = {"image_id": image_id, "category_id": self.category_ids[label]}
            self._write([region | {"segmentation": {**rle, "counts": rle["counts"].decode()}}])

    def _write(self, results: Iterable[dict[str, Any]]) -> None:
        for result in results:
            self._bytes += self._file.write((self._separator + json.dumps(result)).encode())
            self._separator = ",\n"
