"""Proposals of an RPN as arrays, for ``LVISEvaluator``.

Shapes in this module:
    I: images
    P: proposals of all images
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from d2_seesaw.evaluation.predictions.column_joining import join_columns


@dataclass(frozen=True)
class ProposalColumns:
    """Proposals of any number of images.

    Iterating gives the dicts that Detectron2's ``LVISEvaluator`` takes, with "image_id" and
    "proposals", an ``Instances`` that exists as long as it is used. It can be done again. Where
    Detectron2 writes ``box_proposals.pkl``, which is one pickle, it copies all boxes once.

    Attributes:
        image_ids: ``(I,)``.
        image_sizes: ``(I, 2)`` height and width.
        numbers: ``(I,)`` proposals of each image.
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
        """The columns by name; ``{}`` of no images, whose types nobody knows."""
        return dict(vars(self)) if len(self) else {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ProposalColumns:
        """The inverse of ``arrays``."""
        if arrays:
            return cls(**arrays)
        no_ids = np.zeros(0, int)
        return cls(no_ids, np.zeros((0, 2), int), no_ids, np.zeros((0, 4)), np.zeros(0))


class ProposalLog:
    """Takes the proposals of one image after the other and keeps them as a few arrays."""

    def __init__(self, *, images_per_block: int = 50) -> None:
        self._images_per_block = images_per_block
        self._blocks: list[dict[str, np.ndarray]] = []
        self._images: list[dict[str, np.ndarray]] = []

    def append(self, image_id: Any, proposals: Instances) -> None:
        """Add those of an image.

        Args:
            image_id: Id of the image in the annotation file.
            proposals: On the CPU, with ``proposal_boxes`` and ``objectness_logits``.
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
        """All that were added, in order."""
        if self._images:
            self._close_block()
        if len(self._blocks) > 1:
            self._blocks = [join_columns(self._blocks)]
        return ProposalColumns.from_arrays(self._blocks[0] if self._blocks else {})

    def _close_block(self) -> None:
        self._blocks.append(join_columns(self._images))
        self._images = []
