"""Finds what is wrong in an annotation file in COCO or LVIS format, without looking at images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.schema import is_id, problem_of_name
from d2_seesaw.data.annotations.table import category_name
from d2_seesaw.data.check.issues import Issue
from d2_seesaw.data.rle import compressed_rle

SECTIONS = ("images", "annotations", "categories")
_NUMBERS = (int, float)
_LARGE = 1e300
_PIXEL = 1.0  # boxes that were rounded reach that far beyond an image


def check_annotations(content: Mapping[str, Any]) -> list[Issue]:
    """Check a parsed annotation file.

    Args:
        content: COCO or LVIS format, with anything wrong in it.

    Returns:
        All issues, in the order of the file.
    """
    return list(_AnnotationCheck(content).issues())


@dataclass
class _AnnotationCheck:
    content: Mapping[str, Any]
    images: dict[Any, dict[str, Any]] = field(default_factory=dict)
    categories: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def issues(self) -> Iterator[Issue]:
        for section in SECTIONS:
            entries = self.content.get(section)
            if not isinstance(entries, list):
                yield Issue("missing_field", f"the file has no list of {section!r}")
            elif not entries:
                yield Issue("missing_field", f"the file lists no {section}")
            for position, entry in enumerate(entries if isinstance(entries, list) else ()):
                if not isinstance(entry, dict):
                    message = f"{section}[{position}] is {entry!r}, not an object"
                    yield Issue("missing_field", message)
        yield from self._images()
        yield from self._categories()
        yield from self._annotations()

    def _entries(self, section: str) -> Iterator[tuple[int, dict[str, Any]]]:
        entries = self.content.get(section)
        listed = enumerate(entries if isinstance(entries, list) else ())
        return ((position, entry) for position, entry in listed if isinstance(entry, dict))

    def _images(self) -> Iterator[Issue]:
        for position, image in self._entries("images"):
            name = f"images[{position}]"
            known, number = _identity(image), {"height": image.get("height")}
            number["width"] = image.get("width")
            if not is_id(image.get("id")):
                yield Issue("missing_field", f"{name} {_without_id(image)}", **known)
                continue
            if image["id"] in self.images:
                yield Issue("duplicate_id", f"two images have the id {image['id']!r}", **known)
            for key, value in number.items():
                if not isinstance(value, int) or value < 1:
                    yield Issue("missing_field", f"{name} has the {key} {value!r}", **known)
            if problem := problem_of_name(image):
                yield Issue("missing_field", f"{name} {problem}", **known)
            self.images[image["id"]] = image

    def _categories(self) -> Iterator[Issue]:
        names: dict[Any, Any] = {}
        for position, category in self._entries("categories"):
            category_id, name = category.get("id"), category.get("name")
            if not is_id(category_id):
                message = f"categories[{position}] {_without_id(category)}"
                yield Issue("missing_field", message)
                continue
            if name is None:
                message = "it has no name and is called by its id"
                yield Issue("missing_name", message, category_id=category_id)
            elif not is_id(name):
                message = f"categories[{position}] has the name {name!r}, not text or a number"
                yield Issue("missing_field", message, category_id=category_id)
            name = category_name(category)
            if category_id in self.categories:
                message = f"two categories have the id {category_id!r}"
                yield Issue("duplicate_id", message, category_id=category_id)
            if names.setdefault(name, category_id) != category_id:
                message = f"category {names[name]!r} is called {name!r}, too"
                yield Issue("duplicate_name", message, category_id=category_id)
            self.categories[category_id] = category

    def _annotations(self) -> Iterator[Issue]:
        with_masks = any(a.get("segmentation") for _, a in self._entries("annotations"))
        seen, images, categories = set(), set(), set()
        for position, annotation in self._entries("annotations"):
            annotation_id, image_id = annotation.get("id"), annotation.get("image_id")
            image = self.images.get(image_id) if is_id(image_id) else None
            known = {"annotation_id": annotation_id, **_identity(image or {})}
            known["image_id"] = image_id
            if not is_id(annotation_id):
                message = f"annotations[{position}] {_without_id(annotation)}"
                yield Issue("missing_field", message, **known)
            elif annotation_id in seen:
                message = f"two annotations have the id {annotation_id!r}"
                yield Issue("duplicate_id", message, **known)
            else:
                seen.add(annotation_id)
            problems = (
                *self._unknown_ids(annotation),
                *_field_problems(annotation),
                *_box_problems(annotation, image),
                *_mask_problems(annotation, image, with_masks),
            )
            for kind, message in problems:
                yield Issue(kind, message, **known)
            # Ids of other types than these are in no set.
            images |= {image_id} if image else set()
            categories |= {c for c in [annotation.get("category_id")] if is_id(c)}
        yield from self._unused(images, categories)

    def _unknown_ids(self, annotation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not is_id(image) or image not in self.images:
            yield "unknown_image", f"the image id {image!r} is none of 'images'"
        if not is_id(category) or category not in self.categories:
            yield "unknown_category", f"the category id {category!r} is none of 'categories'"

    def _unused(self, images: set[Any], categories: set[Any]) -> Iterator[Issue]:
        for category_id, category in self.categories.items():
            if category_id not in categories:
                message = f"no image shows {category_name(category)!r}"
                yield Issue("category_without_images", message, category_id=category_id)
        for image_id, image in self.images.items():
            if image_id not in images:
                yield Issue("image_without_annotations", "no annotations", **_identity(image))


def _identity(image: Mapping[str, Any]) -> dict[str, Any]:
    name = image.get("file_name") or image.get("coco_url") or None
    return {"file_name": None if name is None else str(name), "image_id": image.get("id")}


def _without_id(entry: Mapping[str, Any]) -> str:
    value = entry.get("id")
    return "has no 'id'" if value is None else f"has the id {value!r}, not a number or text"


def _finite(numbers: Sequence[Any]) -> bool:
    # Whole numbers in JSON can be larger than any float.
    return all(isinstance(n, _NUMBERS) and abs(n) < _LARGE for n in numbers)


def _size(image: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Height and width, where they are known."""
    height, width = (image or {}).get("height"), (image or {}).get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _field_problems(annotation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    area, crowd = annotation.get("area"), annotation.get("iscrowd")
    if not _finite([area]):
        yield "missing_area", f"the area is {area!r}"
    if crowd not in (None, 0, 1):
        yield "missing_field", f"'iscrowd' must be 0 or 1, got {crowd!r}"


def _box_problems(
    annotation: Mapping[str, Any], image: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        yield "missing_field", f"'bbox' must be four numbers, got {box!r}"
        return
    if not _finite(box):
        yield "not_finite", f"the box is {box}"
        return
    left, top, width, height = box
    if width <= 0 or height <= 0:
        yield "zero_area_box", f"the box {box} has the size {width} x {height}"
        return
    size = _size(image)
    if size is None:
        return
    right, bottom = left + width, top + height
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        yield "box_outside_image", f"the box {box} lies outside of {size[1]} x {size[0]} pixels"
    elif min(left, top, size[1] - right, size[0] - bottom) < -_PIXEL:
        yield "box_beyond_image", f"the box {box} reaches beyond {size[1]} x {size[0]} pixels"


def _mask_problems(
    annotation: Mapping[str, Any], image: Mapping[str, Any] | None, with_masks: bool
) -> Iterator[tuple[str, str]]:
    segmentation = annotation.get("segmentation")
    if annotation.get("iscrowd"):
        form = "a run-length encoding" if isinstance(segmentation, dict) else "polygons"
        yield "crowd", f"crowd, as {form if segmentation else 'a box'}"
    if not segmentation:
        if with_masks:
            yield "empty_segmentation", f"the segmentation is {segmentation!r}"
    elif isinstance(segmentation, dict):
        yield from _rle_problems(segmentation, image)
    else:
        yield from _polygon_problems(segmentation)


def _polygon_problems(segmentation: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        message = "'segmentation' must be a list of polygons, each a list, or a run-length encoding"
        yield "missing_field", message
        return
    for index, polygon in enumerate(segmentation):
        if not _finite(polygon):
            yield "not_finite", f"polygon {index} has {_not_finite(polygon)}"
        elif len(polygon) < 6 or len(polygon) % 2:
            yield "invalid_polygon", f"polygon {index} has {len(polygon) / 2:g} points"


def _not_finite(polygon: Sequence[Any]) -> str:
    place = next(i for i, n in enumerate(polygon) if not _finite([n]))
    return f"the coordinate {polygon[place]!r} at {place}"


def _rle_problems(
    segmentation: Mapping[str, Any], image: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    try:
        rle: Any = compressed_rle(segmentation)
        area = int(mask_utils.area(rle))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        yield "invalid_rle", f"the run-length encoding cannot be read: {error!r}"
        return
    size = _size(image)
    if size is not None and tuple(rle["size"]) != size:
        yield "invalid_rle", f"the run-length encoding is of {rle['size']}, the image of {[*size]}"
    elif area == 0:
        yield "empty_segmentation", "the run-length encoding covers no pixel"
