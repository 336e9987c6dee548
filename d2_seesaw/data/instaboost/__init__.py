"""InstaBoost: instances jump a little within their own picture (Fang et al., ICCV 2019).

https://arxiv.org/abs/1908.07801, as the winning entry of the LVIS Challenge 2020 used it (appendix
D of the Seesaw Loss paper): random jittering, without the appearance heat map.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from d2_seesaw.data.instaboost.geometry import Jitter, draw_similarity, overlapping_groups
from d2_seesaw.data.instaboost.instances import (
    Annotation,
    MaskWindow,
    annotation_box,
    mask_of,
    move_annotation,
    union_window,
)
from d2_seesaw.data.instaboost.pixels import inpaint, jitter_colors, paste


class InstaBoost:
    """Move, scale and turn the instances of a picture in front of an in-painted background.

    Instances whose boxes overlap form a group and move as one, so that what covers what does not
    change within it. All instances that move are in-painted away; then the groups are pasted with
    a binary mask, in the order of their first members. An instance that another group has moved
    onto keeps its whole mask, as in the released code; one of which no pixel is left in the picture
    is dropped.

    A crowd annotation stands for many things at once, none of which has a mask of its own, so it
    stays where it is: pixels and annotation. A group with a mask that overlaps a crowd's stays,
    too, because removing it would leave either a hole in the crowd or its own picture behind.

    Args:
        probability: that a picture is changed at all.
        scale: smallest and largest factor of a group's size.
        shift: largest movement along an axis, as a share of the group's size along it.
        angle: largest rotation, in whole degrees, either way.
        color_probability: that the colours of a changed picture are jittered, too.
        border: groups closer than this to an edge, in pixels, only grow, only move outwards across
            that edge, and do not turn: they may be cut off there.
        inpaint_margin: pixels around each instance that are in-painted with it. At 0, as in the
            released code, what an inexact mask leaves of an instance is smeared over its old place.
        image_format: ``"BGR"`` or ``"RGB"``; matters for the colours only.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        *,
        probability: float = 0.5,
        scale: tuple[float, float] = (0.8, 1.2),
        shift: float = 1 / 15,
        angle: int = 1,
        color_probability: float = 0.5,
        border: float = 10,
        inpaint_margin: int = 2,
        image_format: str = "BGR",
    ) -> None:
        self.probability = probability
        self.scale = scale
        self.shift = shift
        self.angle = angle
        self.color_probability = color_probability
        self.border = border
        self.inpaint_margin = inpaint_margin
        self.image_format = image_format
        expectations = {
            "probability": (0 <= probability <= 1, "between 0 and 1"),
            "scale": (len(scale) == 2 and 0 < scale[0] <= scale[1], "0 < smallest <= largest"),
            "shift": (shift >= 0, "at least 0"),
            "angle": (angle >= 0 and angle == int(angle), "a whole number of degrees"),
            "color_probability": (0 <= color_probability <= 1, "between 0 and 1"),
            "border": (border >= 0, "at least 0"),
            "inpaint_margin": (inpaint_margin >= 0, "at least 0"),
            "image_format": (image_format in ("BGR", "RGB"), "'BGR' or 'RGB'"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")
        self._jitter = Jitter((scale[0], scale[1]), shift, int(angle), border)

    def __call__(
        self, image: np.ndarray, annotations: Sequence[Annotation], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Annotation]]:
        """Draw anew for one picture; what is given is not changed.

        Args:
            image: ``(H, W, 3)`` uint8.
            annotations: in Detectron2's format, with a ``segmentation`` of polygons or RLE.
            rng: source of all random numbers.

        Returns:
            The picture, and the annotations that are still in it, in their order. Polygons come
            back as polygons, RLE as compressed RLE, boxes in their mode.

        Raises:
            ValueError: an image of another kind, or an annotation without a mask.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image must be (H, W, 3) uint8, got {tuple(image.shape)} {image.dtype}"
            )
        if rng.random() >= self.probability:
            return image, list(annotations)
        image, moved = self._move(np.ascontiguousarray(image), annotations, rng)
        if rng.random() < self.color_probability:
            image = jitter_colors(image, rng, image_format=self.image_format)
        return image, moved

    def _move(
        self, image: np.ndarray, annotations: Sequence[Annotation], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Annotation]]:
        size = image.shape[:2]
        masks = [mask_of(annotation, size) for annotation in annotations]
        results: dict[int, Annotation] = dict(enumerate(annotations))
        pastes = []
        groups = _groups_that_move(annotations, masks, size)
        for group, box in groups:
            matrix = draw_similarity(box, size, self._jitter, rng).matrix()
            targets = []
            for i in group:
                moved = move_annotation(results.pop(i), masks[i], matrix, size)
                if moved is not None:
                    results[i], target = moved
                    targets.append(target)
            if targets:
                source = union_window([masks[i] for i in group])
                pastes.append((source, union_window(targets), matrix))
        moving = {i for group, _ in groups for i in group}
        removed = self._with_margin(_drawn([masks[i] for i in moving], size))
        removed &= ~_drawn([w for i, w in enumerate(masks) if i not in moving], size)
        covered = _drawn([target for _, target, _ in pastes], size)
        canvas = inpaint(image, removed, removed & ~covered)
        for source, target, matrix in pastes:
            paste(canvas, image, source, target, matrix)
        return canvas, [results[i] for i in sorted(results)]

    def _with_margin(self, mask: np.ndarray) -> np.ndarray:
        kernel = np.ones((2 * self.inpaint_margin + 1,) * 2, np.uint8)
        return cv2.dilate(mask.view(np.uint8), kernel).view(bool)


def _drawn(windows: list[MaskWindow], size: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` bool, the union of the masks."""
    canvas = np.zeros(size, bool)
    for window in windows:
        window.part_of(canvas)[window.mask.view(bool)] = True
    return canvas


def _groups_that_move(
    annotations: Sequence[Annotation], masks: list[MaskWindow], size: tuple[int, int]
) -> list[tuple[list[int], np.ndarray]]:
    """Indices and surrounding box of each group that does not lie on a crowd."""
    is_crowd = [bool(annotation.get("iscrowd", 0)) for annotation in annotations]
    crowd = _drawn([w for w, c in zip(masks, is_crowd, strict=True) if c], size)
    movable = [i for i, w in enumerate(masks) if not is_crowd[i] and w.mask.any()]
    boxes = np.array([annotation_box(annotations[i]) for i in movable]).reshape(-1, 4)
    groups = []
    for members in overlapping_groups(boxes):
        group = [movable[m] for m in members]
        if not any((masks[i].part_of(crowd) & masks[i].mask.view(bool)).any() for i in group):
            box = np.concatenate([boxes[members, :2].min(axis=0), boxes[members, 2:].max(axis=0)])
            groups.append((group, box))
    return groups
