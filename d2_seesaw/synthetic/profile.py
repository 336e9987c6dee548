"""Long-tailed image counts in closed form, and the assignment of categories to images.

Shapes in this module:
    K: categories
    N: images
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2_seesaw.data.frequency import MOST_IMAGES_OF_COMMON, MOST_IMAGES_OF_RARE
from d2_seesaw.synthetic.table import read_table
from d2_seesaw.utils.text import printable


@dataclass(frozen=True)
class LongTailProfile:
    """Image counts that are piecewise linear on log-log axes, with knots at the LVIS bounds.

    Attributes:
        rare: weight of rare categories (only the ratio of the three weights matters).
        common: weight of common categories.
        frequent: weight of frequent categories.
        head_share: fraction of the images that show the most frequent category.
        plateau_share: fraction of the categories that are as frequent as the first.
        tail_images: images of the rarest category.
        full_scale_images: number of images at which the three groups have these weights; with fewer
            images, counts shrink in proportion, down to 1. None: the weights hold at any number.
    """

    rare: int
    common: int
    frequent: int
    head_share: float
    plateau_share: float = 0.0
    tail_images: int = 1
    full_scale_images: int | None = None

    def __post_init__(self) -> None:
        if min(self.rare, self.common, self.frequent) < 0 or not self._total:
            raise ValueError(
                "the weights of rare, common and frequent must be at least 0 and not all 0, got "
                f"{self.rare}, {self.common} and {self.frequent}"
            )
        if not 0 < self.head_share <= 1:
            raise ValueError(f"head_share must be above 0 and at most 1, got {self.head_share}")

    @property
    def _total(self) -> int:
        return self.rare + self.common + self.frequent

    def image_counts(self, num_categories: int, num_images: int) -> np.ndarray:
        """Return the ``(K,)`` integer image counts of the categories, most frequent first."""
        scale = num_images / (self.full_scale_images or num_images)
        full_images = num_images / scale
        frequent = round(num_categories * self.frequent / self._total)
        rare = round(num_categories * self.rare / self._total)
        knots = [  # (rank, images): half a rank after a group's last, half an image above its bound
            (max(1.0, self.plateau_share * num_categories), self.head_share * full_images),
            (frequent + 0.5, MOST_IMAGES_OF_COMMON + 0.5),
            (num_categories - rare + 0.5, MOST_IMAGES_OF_RARE + 0.5),
            (num_categories + 0.5, self.tail_images),
        ]
        ranks, images = np.array(knots).T
        ranks = np.maximum.accumulate(ranks)  # with few categories, a group may be empty
        images = np.minimum.accumulate(images)  # with few images, the head may be below the bounds
        ranked = np.arange(1, num_categories + 1)
        counts = np.exp(np.interp(np.log(ranked), np.log(ranks), np.log(images)))
        return np.clip(np.rint(counts * scale), 1, num_images).astype(int)


@dataclass(frozen=True)
class ListedProfile:
    """Image counts of a list, one for each category.

    Attributes:
        counts: number of training images of each category, by its name.
    """

    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        for name, count in self.counts.items():
            if count < 1:
                raise ValueError(f"the images of {printable(name)} must be at least 1, got {count}")

    @classmethod
    def from_table(cls, table: Path) -> "ListedProfile":
        """Read a CSV file with the columns category and images.

        Raises:
            ValueError: the table cannot be read, lacks a column, names a category twice, or has
                another number than a whole one of at least 1.
        """
        counts: dict[str, int] = {}
        for number, (name, images) in read_table(table, ("category", "images")):
            if name in counts:
                raise ValueError(f"{table}, row {number}: {printable(name)} is there twice")
            if not images.isascii() or not images.isdecimal() or not int(images):
                raise ValueError(
                    f"{table}, row {number}: images must be a whole number of at least 1, got "
                    f"{printable(images)}"
                )
            counts[name] = int(images)
        return cls(counts)

    def image_counts(self, num_categories: int, num_images: int) -> np.ndarray:
        """Return the ``(K,)`` image counts, most frequent first, whatever the number of images."""
        return np.sort(np.array(list(self.counts.values()), int))[::-1]

    def counts_of(self, names: Sequence[str], num_images: int) -> np.ndarray:
        """Return the ``(K,)`` image counts of categories.

        Raises:
            ValueError: the list has other categories, or more images than there are.
        """
        for others, reason in (
            (set(self.counts) - set(names), "of the profile {} no category"),
            (set(names) - set(self.counts), "of the categories {} not in the profile"),
        ):
            if others:
                shown = ", ".join(printable(name) for name in sorted(others)[:5])
                more = f" and {len(others) - 5} more" if len(others) > 5 else ""
                verb = "is" if len(others) == 1 else "are"
                raise ValueError(f"{reason.format(verb)}: {shown}{more}")
        for name in names:
            if self.counts[name] > num_images:
                raise ValueError(
                    f"the profile has {self.counts[name]:,} images of {printable(name)}, but there "
                    f"are {num_images:,} training images"
                )
        return np.array([self.counts[name] for name in names], int)


@dataclass(frozen=True)
class SceneProfile:
    """Categories that occur together: a scene for each category and each image.

    Attributes:
        of_category: ``(K,)`` scene of each category.
        of_image: ``(N,)`` scene of each image.
        strength: probability that a category appears in an image of its own scene rather than in
            any image. 0 makes categories and scenes independent.
    """

    of_category: np.ndarray
    of_image: np.ndarray
    strength: float


DEMO_PROFILE = LongTailProfile(rare=4, common=7, frequent=9, head_share=0.45, tail_images=3)

# Follows the published counts: 1,977 of 100,170 images for about a hundred categories, then fewer.
LVIS_V1_PROFILE = LongTailProfile(
    rare=337,
    common=461,
    frequent=405,
    head_share=1977 / 100_170,
    plateau_share=105 / 1203,
    full_scale_images=100_170,
)

PROFILES = {"demo": DEMO_PROFILE, "lvis_v1": LVIS_V1_PROFILE}


def flattened_counts(
    counts: np.ndarray, num_images: int, appearances: int, flatness: float, minimum: int
) -> np.ndarray:
    """Return ``(K,)`` counts of a validation split in the same order, with a raised tail.

    Args:
        counts: ``(K,)`` image counts of the training split.
        num_images: images of the validation split; no count exceeds it.
        appearances: approximate sum of the counts.
        flatness: 0 keeps the long tail, 1 makes all categories equally frequent.
        minimum: smallest count; reduced if ``appearances`` is too small for it.
    """
    weights = counts.astype(float) ** (1 - flatness)
    minimum = max(1, min(minimum, appearances // len(counts), num_images))
    spare = max(0, appearances - minimum * len(counts))
    return np.minimum(minimum + (spare * weights / weights.sum()).astype(int), num_images)


def assign_categories(
    rng: np.random.Generator,
    counts: np.ndarray,
    num_images: int,
    objects_per_image: tuple[int, int],
    scenes: SceneProfile | None = None,
) -> list[list[int]]:
    """Assign categories to the objects of every image, so that the image counts are exact.

    Images with fewer objects than drawn for them repeat their categories.

    Args:
        rng: source of all random numbers.
        counts: ``(K,)`` images that must show each category.
        num_images: N.
        objects_per_image: minimum and maximum number of objects per image.
        scenes: categories that occur together. If the images of a category's scene are full, the
            rest of it appears in others.

    Returns:
        N lists of 0-based category indices, in random order, with repeats.
    """
    low, high = objects_per_image
    wanted = rng.integers(low, high + 1, num_images)
    room = np.full(num_images, high)
    shown: list[list[int]] = [[] for _ in range(num_images)]
    for category in np.argsort(-counts, kind="stable"):
        # The Gumbel trick draws without replacement in proportion to the weights: the number of
        # objects that an image still needs. Empty images are preferred; full ones come last.
        weights = np.clip(wanted - high + room, 0.02, None) * np.where(room == high, 8.0, 1.0)
        keys = np.where(room > 0, np.log(weights) + rng.gumbel(size=num_images), -np.inf)
        number = int(counts[category])
        if scenes is not None:
            in_scene = scenes.of_image == scenes.of_category[category]
            own = _largest(np.where(in_scene, keys, -np.inf), rng.binomial(number, scenes.strength))
            keys = np.where(room > 0, np.log(weights) + rng.gumbel(size=num_images), -np.inf)
            keys[own] = np.inf
        chosen = np.argpartition(-keys, number - 1)[:number]
        if np.isneginf(keys[chosen]).any():
            raise ValueError(
                f"{num_images} images of at most {high} objects cannot contain {counts.sum()} "
                "appearances of categories: raise objects_per_image or choose another profile"
            )
        room[chosen] -= 1
        for image in chosen:
            shown[image].append(int(category))
    for image, categories in enumerate(shown):
        missing = int(wanted[image]) - len(categories)
        if categories and missing > 0:
            categories.extend(int(c) for c in rng.choice(categories, size=missing))
        rng.shuffle(categories)
    return shown


def _largest(keys: np.ndarray, number: int) -> np.ndarray:
    """Return the indices of the largest keys; fewer if not enough are finite."""
    order = np.argsort(-keys, kind="stable")[:number]
    return order[np.isfinite(keys[order])]
