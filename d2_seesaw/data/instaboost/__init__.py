"""InstaBoost: copy-paste augmentation that jitters instances in their image (ICCV 2019).

Fang et al., https://arxiv.org/abs/1908.07801, as used by the winning entry of the LVIS Challenge
2020 (appendix D of the Seesaw Loss paper): random jittering, without the appearance heat map.
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
    """Augmentation that moves, scales and rotates instances over an inpainted background.

    Instances with overlapping boxes form a group and move together, so that occlusion within a
    group does not change. All moving instances are removed by inpainting. Then the groups are
    pasted with a binary mask, in the order of their first members. An instance that is covered by
    another group keeps its whole mask, as in the released code. An instance without any pixel in
    the image is dropped.

    A crowd annotation covers several objects without their own masks, so its pixels and annotation
    do not change. A group whose mask overlaps a crowd does not move either, because removing it
    would leave a hole in the crowd or a copy of the group.

    Args:
        probability: probability of changing an image.
        scale: range of the factor of a group's size.
        shift: largest shift along an axis, as a fraction of the group's size along it.
        angle: largest rotation in either direction, in whole degrees.
        color_probability: probability of jittering the colors of a changed image.
        border: distance to an edge, in pixels. Closer groups may be cut off there, so they only
            grow, only move outward across that edge, and do not rotate.
        inpaint_margin: pixels around each instance that are also inpainted. With 0, as in the
            released code, remains of an instance outside an inexact mask are smeared.
        image_format: ``"BGR"`` or ``"RGB"``; used for colors only.

    Raises:
        ValueError: an argument is out of range.
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
        """Augment one image; the arguments are not changed.

        Args:
            image: ``(H, W, 3)`` uint8.
            annotations: in Detectron2's format, with polygons or RLE as ``segmentation``.
            rng: source of all random numbers.

        Returns:
            The new image, and the annotations that are still in it, in the given order. Polygons
            are returned as polygons, RLE as compressed RLE, boxes in their mode.

        Raises:
            ValueError: the image has another shape or dtype, or an annotation has no mask.
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
    """Return the union of the masks, ``(H, W)`` bool."""
    canvas = np.zeros(size, bool)
    for window in windows:
        window.part_of(canvas)[window.mask.view(bool)] = True
    return canvas


def _groups_that_move(
    annotations: Sequence[Annotation], masks: list[MaskWindow], size: tuple[int, int]
) -> list[tuple[list[int], np.ndarray]]:
    """Return indices and bounding box of each group that does not overlap a crowd."""
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
