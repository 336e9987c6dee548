"""What the shapes of a checkpoint and the config beside it say about a detector to start from."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

_BOXES = re.compile(r"box_predictor(\.\d+)?\.bbox_pred\.weight")
_MASKS = re.compile(r"mask_head(\.\d+)?\.predictor\.weight")
_OBJECTNESS = re.compile(r"rpn_head\.objectness_logits\.weight")
_DETECTOR = re.compile(r"(^|\.)(roi_heads|proposal_generator|box_predictor|rpn_head)\.")
_GENERATOR = "model.proposal_generator.anchor_generator"


@dataclass(frozen=True)
class DetectorStart:
    """Outputs and anchors of a detector. None stands for what its checkpoint does not show.

    Attributes:
        shares_boxes: whether all classes have the same boxes.
        shares_masks: whether all classes have the same masks.
        anchors: number of anchors of a place, which is that of its aspect ratios.
        aspect_ratios: ratios of height to width, in the order of the anchors.
        sizes: roots of the areas of the anchors of each level, in pixels.
    """

    shares_boxes: bool | None = None
    shares_masks: bool | None = None
    anchors: int | None = None
    aspect_ratios: Sequence[float] | None = None
    sizes: Sequence[float] | None = None

    @staticmethod
    def is_in(names: Iterable[str]) -> bool:
        """Return whether names are those of a detector's weights, not of a backbone alone."""
        return any(_DETECTOR.search(name) for name in names)

    @classmethod
    def of(
        cls, shapes: Mapping[str, Sequence[int]], cfg: DictConfig | None = None
    ) -> "DetectorStart":
        """Describe a detector.

        Args:
            shapes: shape of each tensor of the checkpoint, by its name in Detectron2.
            cfg: config that the detector was trained with, if there is one. It counts only if it
                has one size for each level and as many ratios as the checkpoint has anchors.
        """
        anchors = next(iter(_rows(shapes, _OBJECTNESS)), None)
        ratios, sizes = (None, None) if cfg is None else _anchors(cfg)
        if ratios is None or sizes is None or len(ratios) != anchors:
            ratios = sizes = None
        return cls(
            shares_boxes=_are_all(_rows(shapes, _BOXES), 4),
            shares_masks=_are_all(_rows(shapes, _MASKS), 1),
            anchors=anchors,
            aspect_ratios=ratios,
            sizes=sizes,
        )


def _rows(shapes: Mapping[str, Sequence[int]], pattern: re.Pattern[str]) -> list[int]:
    return [shape[0] for name, shape in shapes.items() if shape and pattern.search(name)]


def _are_all(rows: Iterable[int], number: int) -> bool | None:
    found = list(rows)
    return all(row == number for row in found) if found else None


def _anchors(cfg: DictConfig) -> tuple[list[float] | None, list[float] | None]:
    """Return the ratios, the same on all levels, and the size of each level."""
    node = OmegaConf.select(cfg, _GENERATOR)
    generator = OmegaConf.to_container(node) if isinstance(node, DictConfig) else {}
    ratios, sizes = (
        generator.get(key) if isinstance(generator, dict) else None
        for key in ("aspect_ratios", "sizes")
    )
    if isinstance(ratios, list) and len(ratios) == 1 and isinstance(ratios[0], list):
        ratios = ratios[0]
    single = isinstance(sizes, list) and all(isinstance(s, list) and len(s) == 1 for s in sizes)
    of_levels = [s[0] for s in sizes] if single and isinstance(sizes, list) else None
    return _numbers(ratios), _numbers(of_levels)


def _numbers(values: Any) -> list[float] | None:
    is_list = isinstance(values, list) and len(values) > 0
    return values if is_list and all(isinstance(v, int | float) and v > 0 for v in values) else None
