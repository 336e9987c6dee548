"""What can be wrong with a data set, and how bad each is."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ERROR, WARNING, INFORMATION = "error", "warning", "information"
SEVERITIES = (ERROR, WARNING, INFORMATION)

# Severity and description of each kind, in the order in which they are reported.
KINDS: Mapping[str, tuple[str, str]] = {
    "missing_field": (ERROR, "a field that is needed is missing or of another type"),
    "missing_area": (
        WARNING,
        "an annotation without its area: not to be evaluated",
    ),
    "duplicate_id": (ERROR, "an id that is used twice"),
    "duplicate_name": (ERROR, "a name that two categories share"),
    "missing_name": (WARNING, "a category without a name"),
    "unknown_category": (ERROR, "an annotation of a category that the file does not list"),
    "unknown_image": (ERROR, "an annotation of an image that the file does not list"),
    "missing_image": (ERROR, "an image that is not there"),
    "unreadable_image": (ERROR, "a file that is no image that can be read"),
    "truncated_image": (ERROR, "an image whose end is missing"),
    "wrong_size": (ERROR, "an image of another size than the annotations say"),
    "sixteen_bit_image": (ERROR, "16 bits a channel: cut to 8 when read, or clipped to white"),
    "cmyk_image": (WARNING, "CMYK: converted to RGB without its colour profile when read"),
    "not_finite": (ERROR, "a coordinate that is no finite number, such as NaN"),
    "zero_area_box": (ERROR, "a box without width or height"),
    "box_outside_image": (ERROR, "a box of which nothing lies in the image"),
    "box_beyond_image": (WARNING, "a box that reaches more than a pixel beyond the image"),
    "invalid_polygon": (ERROR, "a polygon of fewer than three points, or of half a point"),
    "empty_segmentation": (ERROR, "no segmentation, while other annotations have one"),
    "invalid_rle": (ERROR, "a run-length encoding that cannot be read or is of another size"),
    "crowd": (INFORMATION, "a crowd: not trained on, and nothing found in it counts as false"),
    "shared_file": (WARNING, "two images of the annotations that are one file"),
    "category_without_images": (WARNING, "a category that no image shows"),
    "image_without_annotations": (INFORMATION, "an image without annotations: not trained on"),
}


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong, or worth knowing, about a data set.

    Attributes:
        kind: One of ``KINDS``.
        message: What it is, in words.
        file_name: The image, if it is about one.
        image_id: Its id in the annotation file.
        annotation_id: The annotation, if it is about one.
        category_id: The category, if it is about one.
    """

    kind: str
    message: str
    file_name: str | None = None
    image_id: Any = None
    annotation_id: Any = None
    category_id: Any = None

    @property
    def severity(self) -> str:
        """``"error"``, ``"warning"`` or ``"information"``."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        places = {
            "image": self.image_id,
            "annotation": self.annotation_id,
            "category": self.category_id,
        }
        where = [f"{key} {value!r}" for key, value in places.items() if value is not None]
        if self.file_name is not None:
            where.insert(0, self.file_name)
        return f"{', '.join(where)}: {self.message}" if where else self.message


def number_by_kind(issues: Iterable[Issue]) -> dict[str, int]:
    """How many issues there are of each kind that occurs, in the order of ``KINDS``."""
    numbers = Counter(issue.kind for issue in issues)
    return {kind: numbers[kind] for kind in KINDS if numbers[kind]}
