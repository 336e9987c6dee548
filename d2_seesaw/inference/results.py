"""Predictions on own pictures as JSON in the COCO results format, which is LVIS's as well."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools import mask as mask_api

from d2_seesaw.evaluation.predictions.mask_scores import add_mask_scores

RESULTS = "results.json"
IMAGES = "images.json"


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
