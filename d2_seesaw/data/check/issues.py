"""Kinds of problems of a dataset, with their severity."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ERROR, WARNING, INFORMATION = "error", "warning", "information"
SEVERITIES = (ERROR, WARNING, INFORMATION)

# Severity and description of each kind, in the order in which they are reported.
KINDS: Mapping[str, tuple[str, str]] = {
    "missing_field": (ERROR, "a required field that is missing or has another type"),
    "missing_area": (WARNING, "an annotation without an area: evaluation needs it"),
    "duplicate_id": (ERROR, "an id that is used twice"),
    "duplicate_name": (ERROR, "a name that two categories share"),
    "missing_name": (WARNING, "a category without a name"),
    "unknown_category": (ERROR, "an annotation of a category that the file does not list"),
    "unknown_image": (ERROR, "an annotation of an image that the file does not list"),
    "missing_image": (ERROR, "an image file that does not exist"),
    "unreadable_image": (ERROR, "a file that cannot be read as an image"),
    "truncated_image": (ERROR, "a truncated image file"),
    "wrong_size": (ERROR, "an image whose size differs from the annotations"),
    "sixteen_bit_image": (ERROR, "16 bits a channel: cut to 8 when read, or clipped to white"),
    "cmyk_image": (WARNING, "CMYK: converted to RGB without its color profile when read"),
    "not_finite": (ERROR, "a number that is not finite, such as NaN"),
    "zero_area_box": (ERROR, "a box without width or height"),
    "box_outside_image": (ERROR, "a box entirely outside of the image"),
    "box_beyond_image": (WARNING, "a box that reaches more than a pixel beyond the image"),
    "invalid_polygon": (ERROR, "a polygon with fewer than three points, or an odd length"),
    "empty_segmentation": (ERROR, "no segmentation, while other annotations have one"),
    "invalid_rle": (ERROR, "a run-length encoding that cannot be read or has another size"),
    "crowd": (INFORMATION, "a crowd: not trained on, detections in it are not false"),
    "shared_file": (WARNING, "two images in the annotations with the same file"),
    "category_without_images": (WARNING, "a category that no image shows"),
    "image_without_annotations": (INFORMATION, "an image without annotations: not trained on"),
}


@dataclass(frozen=True)
class Issue:
    """A problem or notable property of a dataset.

    Attributes:
        kind: One of ``KINDS``.
        message: A description.
        file_name: The image, if the issue concerns one.
        image_id: Its id in the annotation file.
        annotation_id: The annotation, if the issue concerns one.
        category_id: The category, if the issue concerns one.
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
    """Count the issues of each kind that occurs, in the order of ``KINDS``."""
    numbers = Counter(issue.kind for issue in issues)
    return {kind: numbers[kind] for kind in KINDS if numbers[kind]}
