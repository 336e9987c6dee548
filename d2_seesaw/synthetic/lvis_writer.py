"""Scenes as LVIS v1 annotations: polygons, federated fields, category statistics, the JSON file."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.data.frequency import frequency_group
from d2_seesaw.synthetic.glyph_scenes import Scene
from d2_seesaw.synthetic.glyphs import glyph_of


@dataclass(frozen=True)
class ImageRecord:
    """What the annotation file says about one image."""

    image: dict[str, Any]
    category_ids: list[int]  # of the annotations
    annotations: list[str]  # JSON text without ids, encoded by the workers to spare this process


def _leave_out(rng: np.random.Generator, categories: list[int], probability: float) -> set[int]:
    """Indices of objects to leave unannotated: some, never all, of one repeated category."""
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


def _annotation(scene: Scene, index: int, image_id: int) -> str:
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
    scene: Scene,
    *,
    image_id: int,
    path: str,
    num_categories: int,
    negatives: int,
    not_exhaustive_probability: float,
) -> ImageRecord:
    """Describe a scene as LVIS does, its federated fields included.

    Args:
        rng: Source of all randomness.
        scene: What the image shows.
        image_id: Id of the image.
        path: Of the image below the root: a folder and a file.
        num_categories: Number of categories, those the scene does not show included.
        negatives: Absent categories to verify.
        not_exhaustive_probability: That objects of a repeated category are left unannotated.
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
        # Loaders of LVIS find an image by the last two parts of its URL.
        "coco_url": f"http://generated.invalid/{path}",
        "neg_category_ids": [c + 1 for c in absent],
        "not_exhaustive_category_ids": sorted({categories[i] + 1 for i in left_out}),
    }
    return ImageRecord(
        image,
        [categories[i] + 1 for i in annotated],
        [_annotation(scene, i, image_id) for i in annotated],
    )


def category_entries(num_categories: int, records: list[ImageRecord]) -> list[dict[str, Any]]:
    """LVIS's description of the categories, with the statistics of the training split."""
    instances = Counter(c for record in records for c in record.category_ids)
    images = Counter(c for record in records for c in set(record.category_ids))
    return [
        {
            "id": category_id,
            "name": glyph.name,
            "synset": f"{glyph.shape}.n.{category_id:02d}",
            "synonyms": [glyph.name],
            "def": f"a {glyph.name.replace('_', ' ')}",
            "frequency": frequency_group(images[category_id]),
            "image_count": images[category_id],
            "instance_count": instances[category_id],
        }
        for category_id, glyph in enumerate(map(glyph_of, range(num_categories)), start=1)
    ]


def write_json(path: Path, categories: list[dict[str, Any]], records: list[ImageRecord]) -> None:
    """Write a split's annotation file, numbering the annotations."""
    texts = (text for record in records for text in record.annotations)
    info = {"description": "Generated long-tailed glyph scenes", "version": "v1"}
    with open(path, "w") as f:
        f.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n"categories": ')
        f.write(json.dumps(categories))
        f.write(',\n"images": ' + json.dumps([record.image for record in records]))
        f.write(',\n"annotations": [')
        for annotation_id, text in enumerate(texts, start=1):
            separator = "" if annotation_id == 1 else ",\n"
            f.write(f'{separator}{{"id": {annotation_id}, {text[1:]}')
        f.write("]}\n")
