"""Detections as arrays: from the model to the score, the files, the report and other ranks.

A detection with a box takes 28 bytes, one with a mask about 150 bytes. As dicts in the COCO results
format they take 516 and 1,070 bytes, and are objects that have to be pickled for other ranks.

Shapes in this module:
    N: detections
    P: keypoints of a detection
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances, ROIMasks

from d2_seesaw.data.rle import MaskColumns, encode_instances
from d2_seesaw.evaluation.predictions.entries import Entries, ImageSize

MASK_SCORE = "mask_score"
"""Key of the score of the mask in a result, next to the "score" of the box."""


def concatenate(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the columns of all parts, in order, as ``np.concatenate`` does.

    The parts are emptied. Each array is released once it is copied, so that memory is freed while
    the result grows.

    Args:
        parts: At least one; all have the same columns.
    """
    return {name: _concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    column = empty_column([(part.dtype, part.shape) for part in parts])
    parts.reverse()
    start = 0
    while parts:
        part = parts.pop()
        column[start : start + len(part)] = part
        start += len(part)
    return column


def empty_column(layouts: Sequence[tuple[np.dtype, tuple[int, ...]]]) -> np.ndarray:
    """Allocate an uninitialized column for parts of the given dtypes and shapes."""
    dtypes, shapes = zip(*layouts, strict=True)
    return np.empty((sum(s[0] for s in shapes), *shapes[0][1:]), np.result_type(*dtypes))


def layouts_of(columns: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of each column in a JSON-serializable form."""
    return {name: (column.dtype.str, column.shape) for name, column in columns.items()}


@dataclass(frozen=True)
class Detections:
    """Detections of any number of images.

    Mask Scoring ranks masks by ``mask_scores`` and leaves the ``scores`` of boxes alone. Each task
    then has its own order of detections, and a limit on their number keeps different ones.

    Attributes:
        image_ids: ``(N,)`` image ids of the annotation file.
        category_ids: ``(N,)`` category ids of the annotation file.
        scores: ``(N,)`` scores of boxes, and of masks unless there are ``mask_scores``.
        boxes: ``(N, 4)`` left, top, width, height in pixels, or None.
        mask_scores: ``(N,)`` scores of masks, or None.
        keypoints: ``(N, 3 P)`` x, y and score of each keypoint, or None. Carried, never scored.
        masks: N masks, or None. A detection without a mask has no counts.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None = None
    mask_scores: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    masks: MaskColumns | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, of "bbox" and "segm", in which the detections can be scored."""
        has_masks = self.masks is not None and (not len(self) or self._has_mask.any())
        of_task = {"bbox": self.boxes is not None, "segm": has_masks}
        return tuple(task for task, possible in of_task.items() if possible)

    @property
    def _has_mask(self) -> np.ndarray:
        return np.zeros(len(self), bool) if self.masks is None else self.masks.lengths > 0

    def of_task(self, task: str) -> Detections:
        """Return the detections that exist in ``task``: for "segm", those with a mask."""
        if task != "segm" or self.masks is None or self._has_mask.all():
            return self
        return self.take(np.flatnonzero(self._has_mask))

    def scores_of(self, task: str) -> np.ndarray:
        """Return the ``(N,)`` scores by which ``task``, "bbox" or "segm", ranks."""
        return self.scores if task != "segm" or self.mask_scores is None else self.mask_scores

    @classmethod
    def from_results(
        cls,
        results: Sequence[Mapping[str, Any]],
        *,
        first: int = 0,
        image_size: ImageSize | None = None,
    ) -> Detections:
        """Build detections from dicts in the COCO results format, with or without "mask_score".

        Other fields are ignored. A "segmentation" that is null or ``[]`` means that the detection
        has no mask.

        Args:
            results: The dicts.
            first: Position of the first one in its file, for messages.
            image_size: Height and width of an image by its id, for masks that are polygons.

        Raises:
            ValueError: a field is missing, in all or in some of them, or has a wrong type.
        """
        if not results:
            return EMPTY
        fields, entries = set().union(*results), Entries(results, first)
        image_ids, category_ids = entries.ids("image_id"), entries.ids("category_id")
        scores, mask_scores = entries.numbers("score"), None
        if MASK_SCORE in fields:
            mask_scores = entries.numbers(MASK_SCORE, default=scores.tolist())
        return cls(
            image_ids,
            category_ids,
            scores,
            boxes=entries.lists("bbox", 4) if "bbox" in fields else None,
            mask_scores=mask_scores,
            keypoints=entries.lists("keypoints") if "keypoints" in fields else None,
            masks=entries.masks(image_size) if "segmentation" in fields else None,
        )

    @classmethod
    def from_instances(
        cls,
        instances: Instances,
        image_id: Any,
        category_of_class: Mapping[int, int] | None = None,
        *,
        encode_on_device: bool = False,
    ) -> Detections:
        """Build the detections of one image from the output of a model.

        Args:
            instances: Instances with ``pred_boxes``, ``scores`` and ``pred_classes``.
                Optional fields are ``mask_scores``, ``pred_keypoints`` and ``pred_masks``, which
                are masks of the image or masks on boxes (``ROIMasks``).
            image_id: Image id of the annotation file.
            category_of_class: Category id of each class of the model; the class itself if None.
            encode_on_device: Whether masks on boxes are encoded on their device, see
                ``encode_masks``.
        """
        masks = None
        if instances.has("pred_masks"):
            on_device = encode_on_device and isinstance(instances.pred_masks, ROIMasks)
            given = instances if on_device else instances.to("cpu")
            rles = encode_instances(given, on_device=on_device)
            masks = MaskColumns.from_rles(rles)
            fields = {k: v for k, v in instances.get_fields().items() if k != "pred_masks"}
            instances = Instances(instances.image_size, **fields)
        instances = instances.to("cpu")
        classes = instances.pred_classes.tolist()
        if category_of_class is not None:
            classes = [category_of_class[c] for c in classes]
        boxes: Any = instances.pred_boxes.tensor.numpy()
        mask_scores = keypoints = None
        if instances.has("mask_scores"):
            mask_scores = instances.mask_scores.numpy()
        if instances.has("pred_keypoints"):
            # Pixel indices, as in COCO's annotations; a model predicts positions between pixels.
            offset = instances.pred_keypoints.new_tensor([0.5, 0.5, 0])
            keypoints = (instances.pred_keypoints - offset).flatten(1).numpy()
        return cls(
            image_ids=np.array([image_id] * len(instances)),
            category_ids=np.array(classes),
            scores=instances.scores.numpy(),
            boxes=cast("np.ndarray", BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)),
            mask_scores=mask_scores,
            keypoints=keypoints,
            masks=masks,
        )

    @classmethod
    def concatenate(cls, parts: list[Detections], *, consume: bool = False) -> Detections:
        """Concatenate ``parts``, in order. Empty parts may lack columns that others have.

        Args:
            parts: Any number of parts.
            consume: Whether to empty the list, so that each part can be freed once it is copied.

        Raises:
            ValueError: only some of the parts have boxes, masks or keypoints.
        """
        filled = [part for part in parts if len(part)]
        if len(filled) < 2:
            return filled[0] if filled else EMPTY
        names = common_columns(part.arrays() for part in filled)
        arrays = [part.arrays(with_mask_scores="mask_scores" in names) for part in filled]
        del filled
        if consume:
            parts.clear()
        return cls.from_arrays(concatenate(arrays))

    def take(self, rows: np.ndarray) -> Detections:
        """Select rows, in the given order."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        plain = {name: None if column is None else column[rows] for name, column in plain.items()}
        return Detections(**plain, masks=None if self.masks is None else self.masks.take(rows))

    def arrays(self, *, with_mask_scores: bool = False) -> dict[str, np.ndarray]:
        """Return the existing columns by name, for files and for other ranks.

        Args:
            with_mask_scores: Whether to use the scores of boxes if there are no ``mask_scores``.
        """
        columns = {name: getattr(self, name) for name in _PLAIN}
        if with_mask_scores and self.mask_scores is None:
            columns["mask_scores"] = self.scores
        if self.masks is not None:
            columns |= {f"masks_{name}": getattr(self.masks, name) for name in _OF_MASKS}
        return {name: column for name, column in columns.items() if column is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Detections:
        """Build detections from what ``arrays`` returned."""
        masks = None
        if "masks_counts" in arrays:
            masks = MaskColumns(*(arrays[f"masks_{name}"] for name in _OF_MASKS))
        return cls(**{name: arrays[name] for name in _PLAIN if name in arrays}, masks=masks)

    def results(self, task: str | None = None, *, block: int = 10_000) -> Iterator[dict[str, Any]]:
        """Yield dicts in the COCO results format.

        Args:
            task: "bbox" or "segm" for the fields of the task, with its score as "score"; None for
                all fields. Dicts for "segm" have no "bbox", because ``lvis`` and ``pycocotools``
                would use the area of the box as the area of the mask.
            block: Number of detections to convert at once.
        """
        columns = self.columns_of_results(task)
        for start in range(0, len(self), block):
            rows = slice(start, start + block)
            values = [
                _segmentations(column, rows)
                if isinstance(column, MaskColumns)
                else column[rows].tolist()
                for column in columns.values()
            ]
            for row in zip(*values, strict=True):
                yield dict(zip(columns, row, strict=True))

    def columns_of_results(self, task: str | None) -> dict[str, np.ndarray | MaskColumns]:
        """Return the columns of the dicts that :meth:`results` yields, by their keys."""
        columns: dict[str, Any] = {"image_id": self.image_ids, "category_id": self.category_ids}
        if task != "segm":
            columns["bbox"] = self.boxes
        columns["score"] = self.scores if task is None else self.scores_of(task)
        if task != "bbox":
            columns["segmentation"] = self.masks
        if task is None:
            columns |= {"keypoints": self.keypoints, MASK_SCORE: self.mask_scores}
        return {key: column for key, column in columns.items() if column is not None}


def _segmentations(masks: MaskColumns, rows: slice) -> list[Any]:
    rles = masks.rles(rows)
    return [{**r, "counts": r["counts"].decode()} if r["counts"] else [] for r in rles]


def in_classes_of(instances: Instances, targets: Sequence[int | None]) -> Instances:
    """Return the output of a model in the classes of a dataset.

    Args:
        instances: Instances with ``pred_classes``.
        targets: Class of the dataset for each class of the model, None for classes that the dataset
            lacks, whose instances are dropped.
    """
    given = [-1 if target is None else target for target in targets]
    of_class = torch.tensor(given, device=instances.pred_classes.device)
    classes = of_class[instances.pred_classes]
    kept: Any = classes >= 0
    found = instances[kept]
    found.pred_classes = classes[kept]
    return found


_PLAIN = ("image_ids", "category_ids", "scores", "boxes", "mask_scores", "keypoints")
_OF_MASKS = ("sizes", "lengths", "counts")
EMPTY = Detections(np.zeros(0, int), np.zeros(0, int), np.zeros(0))


def common_columns(of_parts: Iterable[Iterable[str]]) -> set[str]:
    """Return the names of all columns, given those of each part.

    Raises:
        ValueError: only some of the parts have boxes, masks or keypoints.
    """
    parts = [set(names) for names in of_parts]
    together = set().union(*parts)
    if any(together - names - {"mask_scores"} for names in parts):
        raise ValueError("Only some of the detections have boxes, masks or keypoints")
    return together
