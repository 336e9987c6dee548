"""Problems of an annotation file in COCO or LVIS format, without looking at images.

Reading the file finds all rules of the format that it breaks. This module adds notable properties
of files that can be used: crowds, categories without images.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.coco import ParsedFile
from d2_seesaw.data.check.issues import Issue


def check_annotations(parsed: ParsedFile) -> list[Issue]:
    """Check annotations that were parsed with ``keep_all``.

    Returns:
        All issues: first those of the format, in the order of the file.
    """
    return list(_AnnotationCheck(parsed).issues())


class _AnnotationCheck:
    def __init__(self, parsed: ParsedFile) -> None:
        self.parsed, self.table = parsed, parsed.table
        self.image_of = {image["id"]: image for image in parsed.table.images}

    def issues(self) -> Iterator[Issue]:
        for p in self.parsed.problems:
            image = self.image_of.get(p.image_id)
            file_name = None if image is None else _file_name(image)
            known = (file_name, p.image_id, p.annotation_id, p.category_id)
            yield Issue(p.kind, p.message, *known)
        for kind, row, message in self._crowds():
            index = int(self.table.image[row])
            image = self.table.images[index] if index >= 0 else {}
            name = self.table.annotation_id[row].item()
            yield Issue(kind, message, _file_name(image), image.get("id"), name)
        yield from self._unused()

    def _crowds(self) -> Iterator[tuple[str, int, str]]:
        """Yield kind, row and message for each crowd."""
        for row in np.flatnonzero(self.table.crowd).tolist():
            form = {list: "polygons", dict: "a run-length encoding"}
            yield "crowd", row, f"crowd, as {form.get(type(self.table.segmentation(row)), 'a box')}"

    def _unused(self) -> Iterator[Issue]:
        categories = set(self.table.category.tolist())
        for index, category in enumerate(self.table.categories):
            if index not in categories:
                message = f"no image shows {category['name']!r}"
                yield Issue("category_without_images", message, category_id=category["id"])
        images = set(self.table.image.tolist())
        for index, image in enumerate(self.table.images):
            if index not in images:
                kind = "image_without_annotations"
                yield Issue(kind, "no annotations", _file_name(image), image["id"])


def _file_name(image: Any) -> str | None:
    return image.get("file_name") or image.get("coco_url")
