"""Annotation files in LVIS v1 format, with the federated fields, of generated scenes."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.frequency import frequency_group
from d2_seesaw.synthetic.glyphs import glyph_of
from d2_seesaw.utils.files import atomic_write


class AnnotatedObject(Protocol):
    """Object of a scene."""

    @property
    def category(self) -> int:
        """Return the 0-based category."""
        ...


class AnnotatedScene(Protocol):
    """Scene with a visible mask for every object."""

    @property
    def owner(self) -> np.ndarray:
        """Return an array whose shape is that of the image."""
        ...

    @property
    def objects(self) -> Sequence[AnnotatedObject]:
        """Return the objects in painter's order."""
        ...

    def visible_polygons(self, index: int) -> list[list[int]]:
        """Return polygons that rasterize to the visible mask of an object."""
        ...


@dataclass(frozen=True)
class ImageRecord:
    """Content of the annotation file for one image."""

    image: dict[str, Any]
    category_ids: list[int]  # of the annotations
    annotations: list[str]  # JSON text without ids, encoded by the workers for speed
    num_objects: int  # drawn objects, those without an annotation included


def _leave_out(rng: np.random.Generator, categories: list[int], probability: float) -> set[int]:
    """Draw the indices of objects to leave unannotated: some, but not all, of one category."""
    repeated = sorted(c for c, times in Counter(categories).items() if times > 1)
    if not repeated or rng.random() >= probability:
        return set()
    category = repeated[rng.integers(len(repeated))]
    objects = [i for i, c in enumerate(categories) if c == category]
    left_out = rng.integers(1, len(objects))
    return {objects[i] for i in rng.permutation(len(objects))[:left_out]}


def _absent(
    rng: np.random.Generator, present: set[int], num_categories: int, wanted: int
) -> list[int]:
    drawn = min(num_categories, wanted + len(present))
    candidates = rng.choice(num_categories, size=drawn, replace=False).tolist()
    return sorted([c for c in candidates if c not in present][:wanted])


def _annotation(scene: AnnotatedScene, index: int, image_id: int) -> str:
    polygons = scene.visible_polygons(index)
    mask = mask_utils.merge(mask_utils.frPyObjects(polygons, *scene.owner.shape))
    annotation = {
        "image_id": image_id,
        "category_id": scene.objects[index].category + 1,
        "bbox": mask_utils.toBbox(mask).tolist(),
        "area": float(mask_utils.area(mask)),
        "segmentation": polygons,
    }
    return json.dumps(annotation, separators=(",", ":"))


def annotate_scene(
    rng: np.random.Generator,
    scene: AnnotatedScene,
    *,
    image_id: int,
    path: str,
    num_categories: int,
    negatives: int,
    not_exhaustive_probability: float,
) -> ImageRecord:
    """Annotate a scene in LVIS format, including the federated fields.

    Args:
        rng: source of all random numbers.
        scene: layout of the image.
        image_id: id of the image.
        path: path of the image relative to the root: a folder and a file.
        num_categories: number of all categories.
        negatives: number of absent categories to verify.
        not_exhaustive_probability: probability of leaving objects of a repeated category
            unannotated.
    """
    categories = [placed.category for placed in scene.objects]
    left_out = _leave_out(rng, categories, not_exhaustive_probability)
    annotated = [i for i in range(len(categories)) if i not in left_out]
    absent = _absent(rng, set(categories), num_categories, negatives)
    height, width = scene.owner.shape
    image = {
        "id": image_id,
        "width": width,
        "height": height,
        "file_name": path,
        # LVIS loaders find an image by the last two parts of its URL.
        "coco_url": f"http://generated.invalid/{path}",
        "neg_category_ids": [c + 1 for c in absent],
        "not_exhaustive_category_ids": sorted({categories[i] + 1 for i in left_out}),
    }
    return ImageRecord(
        image,
        [categories[i] + 1 for i in annotated],
        [_annotation(scene, i, image_id) for i in annotated],
        len(categories),
    )


def glyph_categories(num_categories: int) -> list[dict[str, Any]]:
    """Return names, synsets and definitions of the glyphs' categories."""
    return [
        {
            "name": glyph.name,
            "synset": f"{glyph.shape}.n.{category_id:02d}",
            "def": f"a {glyph.name.replace('_', ' ')}",
        }
        for category_id, glyph in enumerate(map(glyph_of, range(num_categories)), start=1)
    ]


def category_entries(
    categories: Sequence[dict[str, Any]], records: list[ImageRecord]
) -> list[dict[str, Any]]:
    """Return the categories in LVIS format, with the statistics of the training split.

    Args:
        categories: name, synset and definition of each category.
        records: training images.
    """
    instances = Counter(c for record in records for c in record.category_ids)
    images = Counter(c for record in records for c in set(record.category_ids))
    return [
        {
            "id": category_id,
            "name": category["name"],
            "synset": category["synset"],
            "synonyms": [category["name"]],
            "def": category["def"],
            "frequency": frequency_group(images[category_id]),
            "image_count": images[category_id],
            "instance_count": instances[category_id],
        }
        for category_id, category in enumerate(categories, start=1)
    ]


def write_json(
    path: Path,
    categories: list[dict[str, Any]],
    records: list[ImageRecord],
    description: str = "Generated long-tailed glyph scenes",
) -> None:
    """Write a split's annotation file and number its annotations."""
    with atomic_write(path) as file:
        pieces = _json_pieces(categories, records, description)
        file.writelines(piece.encode() for piece in pieces)


def _json_pieces(
    categories: list[dict[str, Any]], records: list[ImageRecord], description: str
) -> Iterator[str]:
    info = {"description": description, "version": "v1"}
    yield f'{{"info": {json.dumps(info)}, "licenses": [],\n"categories": {json.dumps(categories)}'
    yield ',\n"images": ' + json.dumps([record.image for record in records])
    yield ',\n"annotations": ['
    texts = (text for record in records for text in record.annotations)
    for annotation_id, text in enumerate(texts, start=1):
        separator = "" if annotation_id == 1 else ",\n"
        yield f'{separator}{{"id": {annotation_id}, {text[1:]}'
    yield "]}\n"
