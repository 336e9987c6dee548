"""The choice of the size that images are resized to, from the sizes of objects and images."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2_seesaw.own_data.measure import DatasetMeasures
from d2_seesaw.own_data.recipes import Choice, Recipe

EDGE_STEP = 16
SMALL_OBJECT = 16.0  # pixels: four positions of the finest feature map
LEAST_VISIBLE = 8.0  # pixels: two positions
_SMALL_QUANTILE = 0.1
_MOST_INVISIBLE = 0.1  # of the objects, without a warning
_LARGEST_ENLARGEMENT = 2.0
_VIEWS = (0.75, 1, 1.25)  # of test-time augmentation, relative to the size of plain testing

AUGMENTATIONS = "dataloader.train.mapper.augmentations"
TEST_RESIZE = "dataloader.test.mapper.augmentations[0]"


@dataclass(frozen=True)
class Resize:
    """Sizes of resized images, as those of Detectron2's ``ResizeShortestEdge``.

    Attributes:
        edge: short edge in tests and the greatest one in training, in pixels.
        limit: greatest long edge.
    """

    edge: int
    limit: int

    def scales(self, image_sizes: np.ndarray) -> np.ndarray:
        """Return ``(N,)`` factors for images with ``(N, 2)`` widths and heights."""
        by_edge = self.edge / image_sizes.min(axis=1)
        return np.minimum(by_edge, self.limit / image_sizes.max(axis=1))

    def pixels(self, image_sizes: np.ndarray) -> float:
        """Return the mean number of pixels of the resized images."""
        return float((image_sizes.prod(axis=1) * self.scales(image_sizes) ** 2).mean())


def choose_resize(data: DatasetMeasures, recipe: Recipe) -> tuple[Resize, Choice]:
    """Choose the short edge so that all but the smallest tenth of the objects stay visible.

    An object counts with the edge that it needs, or with twice that of its own image if this is
    less: images enlarged further show nothing new. Images differ in size, so each of these limits
    counts as often as there are objects in the image. The least edge of the base config is kept
    within the same limit: pretrained features find the objects of tiny images better enlarged.
    """
    edge, reason = _edge(data, recipe)
    aspect = float(np.quantile(data.image_sizes.max(axis=1) / data.image_sizes.min(axis=1), 0.95))
    limit = math.ceil(edge * float(np.clip(aspect, 5 / 3, 2.5)) / EDGE_STEP) * EDGE_STEP
    resize = Resize(edge, limit)
    sides = data.sides * resize.scales(data.image_sizes)[data.image]
    visible, before = (float((s >= LEAST_VISIBLE).mean()) for s in (sides, data.sides))
    edges = sorted({max(EDGE_STEP, round(f * edge / EDGE_STEP) * EDGE_STEP) for f in (0.8, 0.9, 1)})
    reason += (
        f"; as resized, {100 * visible:.0f} % of the objects have {LEAST_VISIBLE:.0f} pixels or "
        f"more, {100 * before:.0f} % in the original images"
    )
    settings: dict[str, Any] = {
        f"{AUGMENTATIONS}[0].short_edge_length": edges,
        f"{AUGMENTATIONS}[0].max_size": limit,
        f"{TEST_RESIZE}.short_edge_length": edge,
        f"{TEST_RESIZE}.max_size": limit,
        "tta.scales": [[round(f * edge), round(f * limit)] for f in _VIEWS],
    }
    value = f"short edge {edge}, long edge up to {limit}"
    warning = _warning(1 - visible, recipe)
    return resize, Choice("resize", value, reason, settings, warning=warning)


def _edge(data: DatasetMeasures, recipe: Recipe) -> tuple[int, str]:
    """Return the short edge, a multiple of ``EDGE_STEP``, and its reason."""
    low, high = recipe.edges
    edges = data.image_sizes.min(axis=1)[data.image]  # of the image of each object
    most = _LARGEST_ENLARGEMENT * edges
    small = float(np.quantile(data.relative_sides, _SMALL_QUANTILE))
    # The share of an object for which the limit of its image is just what it needs.
    useful = np.maximum(data.relative_sides, SMALL_OBJECT / most)
    needed = SMALL_OBJECT / small
    wanted = SMALL_OBJECT / float(np.quantile(useful, _SMALL_QUANTILE))
    middle = float(np.median(edges))
    least = min(low, _LARGEST_ENLARGEMENT * middle)
    edge = float(np.clip(wanted, least, high))
    reason = (
        f"a tenth of the objects is smaller than {100 * small:.1f} % of the short edge, and needs "
        f"one of {needed:.0f} for {SMALL_OBJECT:.0f} pixels"
    )
    if wanted < 0.99 * needed:
        reason += (
            f"; {wanted:.0f} where images are enlarged at most {_LARGEST_ENLARGEMENT:g} times, as "
            "further enlarged ones show nothing new"
        )
    if wanted > high:
        reason += f"; more than {high} would exceed the memory or time of a {recipe.device}"
    elif edge > wanted and least < low:
        reason += (
            f"; half of the objects are in images of at most {middle:.0f}, which are enlarged "
            f"{_LARGEST_ENLARGEMENT:g} times, towards the {low} of this base config"
        )
    elif edge > wanted:
        reason += f"; {low} is the least for this base config"
    return max(EDGE_STEP, round(edge / EDGE_STEP) * EDGE_STEP), reason


def _warning(invisible: float, recipe: Recipe) -> str:
    """Return a warning if many objects have too few pixels, with what helps."""
    if invisible <= _MOST_INVISIBLE:
        return ""
    device = "a base config for a GPU allows larger images, and " if recipe.is_cpu else ""
    return (
        f"{100 * invisible:.0f} % of the objects have less than {LEAST_VISIBLE:.0f} pixels as "
        f"resized, too few to be found: {device}cutting the images into tiles leaves the objects "
        "their pixels"
    )
