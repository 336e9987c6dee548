"""Detections as arrays: 28 bytes for one with a box, some 150 with a mask.

As a dict in the COCO results format, the same takes 516 and 1,070 bytes, and as many objects that
have to be pickled on the way from rank to rank.

Shapes in this module:
    N: detections
    B: bytes of all masks
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from detectron2.structures import BoxMode, Instances, ROIMasks

from d2_seesaw.data.rle import MASK_SCORE, encode_masks


def concatenate(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The columns of all parts, in order, as by ``np.concatenate``.

    Every part is emptied, and each array given up once it is copied: what nothing else holds is
    freed while the result grows.

    Args:
        parts: at least one; all have the same columns.
    """
    return {name: _joined([part.pop(name) for part in parts]) for name in list(parts[0])}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    column = empty_column([(part.dtype, part.shape) for part in parts])
    parts.reverse()
    start = 0
    while parts:
        part = parts.pop()
        column[start : start + len(part)] = part
        start += len(part)
    return column


def empty_column(layouts: Sequence[tuple[np.dtype, tuple[int, ...]]]) -> np.ndarray:
    """Uninitialised, for parts of the given types and shapes one below the other."""
    dtypes, shapes = zip(*layouts, strict=True)
    return np.empty((sum(s[0] for s in shapes), *shapes[0][1:]), np.result_type(*dtypes))


def layouts_of(columns: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each column, as JSON can say them."""
    return {name: (column.dtype.str, column.shape) for name, column in columns.items()}


@dataclass(frozen=True)
class MaskColumns:
    """Masks in COCO's compressed run-length encoding, its text one after the other.

    Attributes:
        sizes: ``(N, 2)`` height and width.
        lengths: ``(N,)`` bytes of each mask.
        counts: ``(B,)`` uint8, the "counts" of all masks.
    """

    sizes: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    @classmethod
    def from_rles(cls, rles: Sequence[Mapping[str, Any]]) -> MaskColumns:
        """From dicts with "size" and "counts", which is text, bytes or a list of runs."""
        counts = [_counts_as_bytes(rle) for rle in rles]
        return cls(
            np.array([rle["size"] for rle in rles], dtype=np.int32).reshape(-1, 2),
            np.array([len(c) for c in counts], dtype=np.int32),
            np.frombuffer(b"".join(counts), dtype=np.uint8),
        )

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def rles(self, rows: np.ndarray | slice) -> list[dict[str, Any]]:
        """Dicts as pycocotools takes them, with "counts" in bytes."""
        counts: Any = self.counts
        text = memoryview(counts)
        starts = self._starts[:-1][rows].tolist()
        ends = self._starts[1:][rows].tolist()
        return [
            {"size": size, "counts": bytes(text[start:end])}
            for size, start, end in zip(self.sizes[rows].tolist(), starts, ends, strict=True)
        ]

    def take(self, rows: np.ndarray) -> MaskColumns:
        """Those of the given rows, in their order."""
        lengths = self.lengths[rows]
        counts = np.empty(lengths.sum(dtype=np.int64), self.counts.dtype)
        # In blocks, because a place takes eight times the memory of its byte.
        end = 0
        for start in range(0, len(rows), _MASKS_PER_BLOCK):
            n = lengths[start : start + _MASKS_PER_BLOCK].astype(np.int64)
            shift = self._starts[rows[start : start + _MASKS_PER_BLOCK]] - (np.cumsum(n) - n)
            places = np.arange(n.sum()) + np.repeat(shift, n)
            counts[end : end + len(places)] = self.counts[places]
            end += len(places)
        return MaskColumns(self.sizes[rows], lengths, counts)


@dataclass(frozen=True)
class Detections:
    """Detections of any number of images.

    Attributes:
        image_ids: ``(N,)`` ids in the annotation file.
        category_ids: ``(N,)`` the same of categories.
        scores: ``(N,)`` of the boxes, or of the masks where there is one score.
        boxes: ``(N, 4)`` left, top, width, height in pixels, or None.
        mask_scores: ``(N,)`` of the masks where they have their own, or None.
        masks: N masks, or None.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None = None
    mask_scores: np.ndarray | None = None
    masks: MaskColumns | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of "bbox" and "segm" that the detections can be scored in."""
        of_task = {"bbox": self.boxes, "segm": self.masks}
        return tuple(task for task, column in of_task.items() if column is not None)

    def scores_of(self, task: str) -> np.ndarray:
        """``(N,)`` scores by which ``task``, "bbox" or "segm", ranks."""
        return self.scores if task != "segm" or self.mask_scores is None else self.mask_scores

    @classmethod
    def from_results(cls, results: Sequence[Mapping[str, Any]]) -> Detections:
        """From dicts in the COCO results format, maybe with a "mask_score".

        Raises:
            ValueError: a field is missing, in all or in some of them.
        """
        if not results:
            return EMPTY
        columns = {key: _column(results, key) for key in ("image_id", "category_id", "score")}
        mask_scores = None
        if any(MASK_SCORE in r for r in results):
            mask_scores = np.array([r.get(MASK_SCORE, r["score"]) for r in results])
        return cls(
            columns["image_id"],
            columns["category_id"],
            columns["score"],
            boxes=_column(results, "bbox").reshape(-1, 4) if _have(results, "bbox") else None,
            mask_scores=mask_scores,
            masks=(
                MaskColumns.from_rles(_values(results, "segmentation"))
                if _have(results, "segmentation")
                else None
            ),
        )

    @classmethod
    def from_instances(
        cls, instances: Instances, image_id: Any, category_of_class: Mapping[int, int]
    ) -> Detections:
        """The detections of one image.

        Args:
            instances: On the CPU, with ``pred_boxes``, ``scores`` and ``pred_classes``, and where
                the model has them ``mask_scores`` and ``pred_masks``, of the whole image or on the
                boxes (``ROIMasks``).
            image_id: Id of the image in the annotation file.
            category_of_class: Id of the category in the file, by the class index of the model.
        """
        boxes: Any = instances.pred_boxes.tensor.numpy()
        has_own_scores, has_masks = instances.has("mask_scores"), instances.has("pred_masks")
        return cls(
            image_ids=np.array([image_id] * len(instances)),
            category_ids=np.array([category_of_class[c] for c in instances.pred_classes.tolist()]),
            scores=instances.scores.numpy(),
            boxes=cast("np.ndarray", BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)),
            mask_scores=instances.mask_scores.numpy() if has_own_scores else None,
            masks=MaskColumns.from_rles(mask_rles(instances)) if has_masks else None,
        )

    @classmethod
    def concatenate(cls, parts: list[Detections], *, consume: bool = False) -> Detections:
        """All detections of ``parts``, in order. Empty parts may lack columns that others have.

        Args:
            parts: of any number.
            consume: Whether to empty the list, so that each part can be freed once it is copied.

        Raises:
            ValueError: boxes or masks are in some of the parts only.
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
        """Those of the given rows, in their order."""
        boxes, mask_scores, masks = self.boxes, self.mask_scores, self.masks
        return Detections(
            self.image_ids[rows],
            self.category_ids[rows],
            self.scores[rows],
            boxes=None if boxes is None else boxes[rows],
            mask_scores=None if mask_scores is None else mask_scores[rows],
            masks=None if masks is None else masks.take(rows),
        )

    def arrays(self, *, with_mask_scores: bool = False) -> dict[str, np.ndarray]:
        """The columns that are there, by name: for files and for other ranks.

        Args:
            with_mask_scores: Whether masks without own scores get those of the boxes.
        """
        columns = {name: getattr(self, name) for name in _PLAIN}
        if with_mask_scores and self.mask_scores is None:
            columns["mask_scores"] = self.scores
        if self.masks is not None:
            columns |= {f"masks_{name}": getattr(self.masks, name) for name in _OF_MASKS}
        return {name: column for name, column in columns.items() if column is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Detections:
        """The inverse of ``arrays``."""
        masks = None
        if "masks_counts" in arrays:
            masks = MaskColumns(*(arrays[f"masks_{name}"] for name in _OF_MASKS))
        return cls(**{name: arrays[name] for name in _PLAIN if name in arrays}, masks=masks)

    def results(self, task: str | None = None, *, block: int = 10_000) -> Iterator[dict[str, Any]]:
        """Dicts in the COCO results format, of which ``block`` exist at a time.

        Args:
            task: None for all fields. Otherwise those that ``results_of_task`` leaves, with the one
                score that counts in the task.
            block: how many to convert at once.
        """
        for start in range(0, len(self), block):
            yield from self._results_of_rows(slice(start, start + block), task)

    def _results_of_rows(self, rows: slice, task: str | None) -> Iterator[dict[str, Any]]:
        columns: dict[str, Any] = {
            "image_id": self.image_ids[rows].tolist(),
            "category_id": self.category_ids[rows].tolist(),
        }
        if self.boxes is not None and task != "segm":
            columns["bbox"] = self.boxes[rows].tolist()
        scores = self.scores if task is None else self.scores_of(task)
        columns["score"] = scores[rows].tolist()
        if self.masks is not None and task != "bbox":
            rles = self.masks.rles(rows)
            columns["segmentation"] = [{**r, "counts": r["counts"].decode()} for r in rles]
        if self.mask_scores is not None and task is None:
            columns[MASK_SCORE] = self.mask_scores[rows].tolist()
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


_MASKS_PER_BLOCK = 10_000
_PLAIN = ("image_ids", "category_ids", "scores", "boxes", "mask_scores")
_OF_MASKS = ("sizes", "lengths", "counts")
EMPTY = Detections(np.zeros(0, int), np.zeros(0, int), np.zeros(0))


def common_columns(of_parts: Iterable[Iterable[str]]) -> set[str]:
    """Names of the columns that parts of the detections have together, given those of each.

    Raises:
        ValueError: boxes or masks are in some of the parts only.
    """
    parts = [set(names) for names in of_parts]
    together = set().union(*parts)
    if any(together - names - {"mask_scores"} for names in parts):
        raise ValueError("Some of the detections have boxes or masks, and others have not")
    return together


def _have(results: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(key in r for r in results)


def _column(results: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array(_values(results, key))


def _values(results: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    missing = sum(key not in r for r in results)
    if missing:
        raise ValueError(f"{missing} of {len(results)} detections have no {key!r}")
    return [r[key] for r in results]


def _counts_as_bytes(rle: Mapping[str, Any]) -> bytes:
    from pycocotools import mask as mask_utils

    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys():
        text = str(rle)
        raise ValueError(
            "The segmentation of a detection must be a run-length encoding, a dict with 'size' and "
            f"'counts', got {text[:60]}{'...' * (len(text) > 60)}"
        )
    counts = rle["counts"]
    if isinstance(counts, list):
        uncompressed: Any = rle
        counts = mask_utils.frPyObjects(uncompressed, *rle["size"])["counts"]
    return counts.encode() if isinstance(counts, str) else counts


def batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last with what is left."""
    while block := list(itertools.islice(items, size)):
        yield block


def mask_rles(instances: Instances) -> list[dict[str, Any]]:
    """Each of ``pred_masks`` in COCO's compressed run-length encoding."""
    from pycocotools import mask as mask_utils

    masks = instances.pred_masks
    if isinstance(masks, ROIMasks):
        return encode_masks(masks.tensor, instances.pred_boxes, instances.image_size)
    rles: list[Any] = [mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    return rles
