"""How often each category occurs in the training data, and the LVIS groups that follow from it.

The bounds are those of the official LVIS v1 annotations (Gupta et al., CVPR 2019): a category in at
most 10 training images is rare, in 11 to 100 common, in more than 100 frequent. The rule in a
comment of lvis-api (fewer than 10, fewer than 100) mislabels the 26 categories on the bounds.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

MOST_IMAGES_OF_RARE = 10
MOST_IMAGES_OF_COMMON = 100
GROUPS = ("r", "c", "f")


def frequency_group(image_count: int) -> str:
    """``"r"``, ``"c"`` or ``"f"`` for a category in ``image_count`` training images."""
    if image_count <= MOST_IMAGES_OF_RARE:
        return "r"
    return "c" if image_count <= MOST_IMAGES_OF_COMMON else "f"


def category_image_counts(dataset: Iterable[dict[str, Any]], num_classes: int) -> np.ndarray:
    """Number of images in which each category occurs.

    Args:
        dataset: dicts in Detectron2's format; only ``annotations[i]["category_id"]`` is read.
        num_classes: C.

    Returns:
        ``(C,)`` int64 counts.

    Raises:
        ValueError: a category id outside ``[0, C)``.
    """
    counts = np.zeros(num_classes, dtype=np.int64)
    for image in dataset:
        for category in {a["category_id"] for a in image["annotations"]}:
            if not 0 <= category < num_classes:
                raise ValueError(
                    f"category_id must lie in [0, {num_classes - 1}] for {num_classes} classes, "
                    f"got {category} in {image.get('file_name', 'an image')}"
                )
            counts[category] += 1
    return counts


def group_sizes(image_counts: Sequence[int] | np.ndarray) -> dict[str, int]:
    """Number of categories in each group, for their training image counts."""
    groups = [frequency_group(int(count)) for count in image_counts]
    return {group: groups.count(group) for group in GROUPS}
