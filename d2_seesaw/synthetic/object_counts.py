"""Numbers of images with no or too few objects, with the reason and a remedy.

A long-tail profile fixes how many images show each category. With few categories, that may be less
than one appearance per image, and the other images stay empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from d2_seesaw.synthetic.profile import ListedProfile, LongTailProfile

_GAIN = 1.2  # smallest increase of the appearances per image that makes a remedy worth naming
_NAMES = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class ObjectCounts:
    """Numbers of images of a split.

    Attributes:
        images: all images.
        without_object: images without an object.
        below_lowest: images with fewer objects than the lowest number asked for, those without an
            object included.
        without_place: images of ``below_lowest`` for which enough objects were planned, but not
            all of them found a place.
        appearances: planned appearances of categories in images.
    """

    images: int
    without_object: int
    below_lowest: int
    without_place: int
    appearances: int


@dataclass(frozen=True)
class ObjectSummary:
    """Numbers of images with no or too few objects, by split, and what to change.

    Attributes:
        lowest: lowest number of objects per image asked for.
        splits: counts of each split, "train" and "val".
        remedies: changes that give training images more objects.
    """

    lowest: int
    splits: dict[str, ObjectCounts]
    remedies: list[str]

    def lines(self) -> list[str]:
        """Return one line for each split, and one for each reason of images without objects."""
        lines = [
            f"{_NAMES[split]}: {n.without_object} of {n.images} images have no object, "
            f"{n.below_lowest} have fewer than {self.lowest}"
            for split, n in self.splits.items()
        ]
        for split, n in self.splits.items():
            if n.below_lowest == n.without_place:
                continue
            if split == "train":
                reason = "the profile asks for no more than"
                remedies = self.remedies
            else:
                reason, remedies = "the plan has", ["more objects per image"]
            lines.append(
                f"{_NAMES[split]}: {reason} {n.appearances} appearances of categories in "
                f"{n.images} images; to fill them, use {_listing(remedies)}"
            )
        if crowded := sum(n.without_place for n in self.splits.values()):
            lines.append(
                f"{crowded} of these images had no place for all of their objects; use smaller or "
                "fewer objects"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return all numbers and lines in a JSON-serializable form."""
        return {**asdict(self), "lines": self.lines()}


def _listing(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def count_objects(
    planned: Sequence[Sequence[int]], drawn: Sequence[int], lowest: int
) -> ObjectCounts:
    """Count the images of a split that have no or too few objects.

    Args:
        planned: categories of the planned objects of each image.
        drawn: number of objects in each image.
        lowest: lowest number of objects asked for.
    """
    pairs = list(zip(planned, drawn, strict=True))
    return ObjectCounts(
        images=len(pairs),
        without_object=sum(number == 0 for _, number in pairs),
        below_lowest=sum(number < lowest for _, number in pairs),
        without_place=sum(number < lowest <= len(objects) for objects, number in pairs),
        appearances=sum(len(set(objects)) for objects, _ in pairs),
    )


def remedies(
    profile: LongTailProfile | ListedProfile,
    others: Mapping[str, LongTailProfile],
    num_categories: int,
    num_images: int,
    highest: int,
) -> list[str]:
    """Return changes that raise the number of appearances per training image.

    More categories always help. Fewer images do so only if the counts of the profile do not shrink
    with them.

    Args:
        profile: profile in use.
        others: profiles to try, by name.
        num_categories: number of categories.
        num_images: number of training images.
        highest: highest number of objects per image; images cannot hold more appearances.
    """

    def per_image(tried: LongTailProfile | ListedProfile, images: int) -> float:
        return float(tried.image_counts(num_categories, images).sum() / images)

    now = per_image(profile, num_images)
    half = max(1, num_images // 2)
    found = ["more categories"]
    if now * _GAIN < per_image(profile, half) <= highest:
        found.append("fewer training images")
    for name, other in others.items():
        if now * _GAIN < per_image(other, num_images) <= highest:
            found.append(f"the profile {name}")
    return found
