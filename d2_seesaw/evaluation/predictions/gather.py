"""Logs of detections and proposals, filled image by image, and gathering from all ranks.

Columns are sent as raw memory: nothing is pickled, and ranks need no shared disk. The main process
allocates each column once, in its full length, and receives the values of the ranks in place.

Shapes in this module:
    I: images
    P: proposals of all images
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from d2_seesaw.evaluation.predictions.detections import (
    EMPTY,
    Detections,
    common_columns,
    concatenate,
    empty_column,
    layouts_of,
)
from d2_seesaw.evaluation.predictions.growing_columns import GrowingColumns
from d2_seesaw.evaluation.predictions.limits import DetectionLimits

_BYTES_PER_MESSAGE = 2**30


def all_gather_json(value: Any) -> list[Any]:
    """Gather a value from each rank, on all ranks. Tuples become lists.

    Args:
        value: Small JSON-serializable value.
    """
    if comm.get_world_size() == 1:
        return [json.loads(json.dumps(value))]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    group, ranks = _cpu_group(), range(comm.get_world_size())
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in ranks]
    dist.all_gather(lengths, torch.tensor([len(own)]), group=group)
    # all_gather needs tensors of one size.
    longest = max(int(n) for n in lengths)
    texts = [torch.zeros(longest, dtype=torch.uint8) for _ in ranks]
    dist.all_gather(texts, torch.nn.functional.pad(own, (0, longest - len(own))), group=group)
    return [json.loads(bytes(t[:n].tolist())) for t, n in zip(texts, lengths, strict=True)]


def gather_detections(own: Detections) -> Detections:
    """Gather the detections of all ranks on the main process, in rank order.

    Other ranks get an empty result. Ranks without detections may lack columns that others have.

    Raises:
        ValueError: on all ranks, if only some of them have boxes, masks or keypoints.
    """
    of_ranks = [n for n in all_gather_json(list(own.arrays()) if len(own) else []) if n]
    with_mask_scores = "mask_scores" in common_columns(of_ranks)
    gathered = gather_columns(own.arrays(with_mask_scores=with_mask_scores) if len(own) else {})
    return Detections.from_arrays(gathered) if gathered else EMPTY


def gather_columns(own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gather the columns of all ranks on the main process, in rank order; others get ``{}``.

    The main process holds its own columns and the result. If dtypes differ, such as those of ids
    of different lengths, it also holds one column of one rank at a time.

    Args:
        own: Columns of numbers or text, the same on all ranks or none.
    """
    if comm.get_world_size() == 1:
        return dict(own)
    of_ranks = all_gather_json(layouts_of(own))
    names = next((list(layouts) for layouts in of_ranks if layouts), [])
    if not comm.is_main_process():
        for name in names if own else []:
            _send(own[name])
        return {}
    return {name: _receive(own, name, of_ranks) for name in names}


def _receive(
    own: Mapping[str, np.ndarray], name: str, of_ranks: list[dict[str, Any]]
) -> np.ndarray:
    layouts = {
        rank: (np.dtype(layouts[name][0]), tuple(layouts[name][1]))
        for rank, layouts in enumerate(of_ranks)
        if layouts
    }
    column = empty_column(list(layouts.values()))
    start = 0
    for rank, (dtype, shape) in layouts.items():
        place = column[start : start + shape[0]]
        start += shape[0]
        if rank == comm.get_rank():
            place[...] = own[name]
        elif dtype == column.dtype:
            _receive_into(place, rank)
        else:
            part = np.empty(shape, dtype)
            _receive_into(part, rank)
            place[...] = part
    return column


def _receive_into(place: np.ndarray, rank: int) -> None:
    for message in _messages(place):
        dist.recv(message, src=rank, group=_cpu_group())


def _send(column: np.ndarray) -> None:
    # torch warns about read-only memory.
    for message in _messages(np.require(column, requirements=["W"])):
        dist.send(message, dst=0, group=_cpu_group())


def _messages(column: np.ndarray) -> Sequence[torch.Tensor]:
    """Split the memory of a contiguous array into parts that Linux can send at once."""
    if not column.nbytes:
        return []
    return torch.from_numpy(column.reshape(-1).view(np.uint8)).split(_BYTES_PER_MESSAGE)


def _cpu_group() -> Any:
    """Return the group that ``comm.gather`` uses: all ranks, on gloo if GPUs use NCCL."""
    return comm._get_global_gloo_group()


class DetectionLog:
    """Collector of detections, image by image, which keeps them as a few arrays.

    Args:
        per_category: Limit per category over all images in each task, or None. The log drops the
            excess at the end, and whenever it has doubled since the last time.
        images_per_block: Number of images that are concatenated at once.
    """

    def __init__(self, *, per_category: int | None = None, images_per_block: int = 50) -> None:
        self._limits = DetectionLimits(per_image=None, per_category=per_category)
        self._images_per_block = images_per_block
        self._images: list[Detections] = []
        self._columns = GrowingColumns()  # of all other images, without a limit
        self._blocks: list[Detections] = []  # the same, with a limit
        self._last_count = 0

    def __len__(self) -> int:
        in_columns = self._columns.lengths.get("scores", 0)
        return in_columns + sum(len(part) for part in (*self._blocks, *self._images))

    def append(self, detections: Detections) -> None:
        """Add the detections of an image."""
        self._images.append(detections)
        if len(self._images) == self._images_per_block:
            self._close_block()
            if self._has_limit and len(self) >= 2 * self._last_count:
                self._drop_excess()

    def columns(self) -> Detections:
        """Return the detections that were added, in order, within the limit.

        Raises:
            ValueError: only some of the detections have boxes, masks or keypoints.
        """
        self._close_block()
        if self._has_limit:
            self._drop_excess()
            self._blocks = [Detections.concatenate(self._blocks, consume=True)]
            return self._blocks[0]
        return Detections.from_arrays(self._columns.arrays()) if self._columns.lengths else EMPTY

    @property
    def _has_limit(self) -> bool:
        return self._limits.per_category is not None

    def _close_block(self) -> None:
        block = Detections.concatenate(self._images, consume=True)
        if self._has_limit:
            self._blocks.append(block)
        elif len(block):
            self._extend_columns(block)
        self._images = []

    def _extend_columns(self, block: Detections) -> None:
        columns, arrays = self._columns, block.arrays()
        if columns.lengths:
            names = common_columns([columns.lengths, arrays])
            if "mask_scores" in names - columns.lengths.keys():
                columns.add_column("mask_scores", columns.arrays()["scores"])
            arrays = block.arrays(with_mask_scores="mask_scores" in names)
        columns.append(arrays)

    def _drop_excess(self) -> None:
        # Exact: a detection beyond the limit now stays beyond it when others are added.
        kept = self._limits.rows_of_any_task(_ids_and_scores(self._blocks))
        ends = list(itertools.accumulate(len(block) for block in self._blocks))
        for i, (start, end) in enumerate(itertools.pairwise([0, *ends])):
            rows = kept[slice(*np.searchsorted(kept, (start, end)))]
            if len(rows) < end - start:
                self._blocks[i] = self._blocks[i].take(rows - start)
        self._last_count = len(kept)


def _ids_and_scores(parts: list[Detections]) -> Detections:
    return Detections.concatenate(
        [
            Detections(p.image_ids, p.category_ids, p.scores, mask_scores=p.mask_scores)
            for p in parts
        ]
    )


@dataclass(frozen=True)
class ProposalColumns:
    """Proposals of any number of images.

    Iteration yields the dicts that Detectron2's evaluators take, with "image_id" and "proposals",
    which are ``Instances`` built on demand. Iteration can be repeated. Detectron2 copies all boxes
    once when it writes ``box_proposals.pkl``, which is one pickle.

    Attributes:
        image_ids: ``(I,)``.
        image_sizes: ``(I, 2)`` height and width.
        numbers: ``(I,)`` number of proposals of each image.
        boxes: ``(P, 4)`` left, top, right, bottom in pixels, image by image.
        objectness_logits: ``(P,)``.
    """

    image_ids: np.ndarray
    image_sizes: np.ndarray
    numbers: np.ndarray
    boxes: np.ndarray
    objectness_logits: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        images = zip(self.image_ids.tolist(), self.image_sizes.tolist(), strict=True)
        ends = np.cumsum(self.numbers, dtype=np.int64)
        for (image_id, (height, width)), start, end in zip(
            images, ends - self.numbers, ends, strict=True
        ):
            proposals = Instances((height, width))
            proposals.proposal_boxes = Boxes(torch.from_numpy(self.boxes[start:end]))
            logits = torch.from_numpy(self.objectness_logits[start:end])
            proposals.objectness_logits = logits
            yield {"image_id": image_id, "proposals": proposals}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns by name; empty if there are no images, as dtypes are then unknown."""
        return dict(vars(self)) if len(self) else {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ProposalColumns:
        """Build the columns from what ``arrays`` returned."""
        if arrays:
            return cls(**arrays)
        no_ids = np.zeros(0, int)
        return cls(no_ids, np.zeros((0, 2), int), no_ids, np.zeros((0, 4)), np.zeros(0))


class ProposalLog:
    """Collector of proposals, image by image, which keeps them as a few arrays."""

    def __init__(self, *, images_per_block: int = 50) -> None:
        self._images_per_block = images_per_block
        self._columns = GrowingColumns()
        self._images: list[dict[str, np.ndarray]] = []

    def append(self, image_id: Any, proposals: Instances) -> None:
        """Add the proposals of an image.

        Args:
            image_id: Image id of the annotation file.
            proposals: Instances on the CPU with ``proposal_boxes`` and ``objectness_logits``.
        """
        self._images.append(
            {
                "image_ids": np.array([image_id]),
                "image_sizes": np.array([proposals.image_size]),
                "numbers": np.array([len(proposals)]),
                "boxes": proposals.proposal_boxes.tensor.numpy(),
                "objectness_logits": proposals.objectness_logits.numpy(),
            }
        )
        if len(self._images) == self._images_per_block:
            self._close_block()

    def columns(self) -> ProposalColumns:
        """Return the proposals that were added, in order."""
        if self._images:
            self._close_block()
        return ProposalColumns.from_arrays(self._columns.arrays())

    def _close_block(self) -> None:
        self._columns.append(concatenate(self._images))
        self._images = []
