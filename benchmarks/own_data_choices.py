"""Choices of `d2-seesaw train --data` for five datasets of different sizes and shapes.

    python benchmarks/own_data_choices.py
    python benchmarks/own_data_choices.py --config own_data/one_gpu --verbose

The boxes of the datasets are drawn; no images are. The shares are those of a second draw, which
nothing was chosen on: of objects that have 8 pixels or more after resizing, and of boxes that an
anchor overlaps with an IoU of 0.5 and of 0.7, each with the fixed values of the base config and
with the chosen ones.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.engine import load_config
from d2_seesaw.own_data import DatasetMeasures, choices_text, choose, measure, recipe_of
from d2_seesaw.own_data.anchors import Anchors, Boxes, reach
from d2_seesaw.own_data.choices import resized_boxes
from d2_seesaw.own_data.recipes import Recipe
from d2_seesaw.own_data.resizing import LEAST_VISIBLE, Resize, choose_resize


@dataclass(frozen=True)
class Kind:
    """Numbers and distributions that a dataset is drawn from.

    Attributes:
        images: number of images.
        size: their width and height.
        categories: number of categories.
        tail: exponent of the frequencies; 0 is balanced.
        objects: mean number of objects in an image.
        sides: range of the roots of the areas of boxes, in pixels; log-uniform.
        ratios: ratios of height to width.
        has_masks: whether objects have masks.
        is_federated: whether images have verified categories only.
    """

    images: int
    size: tuple[int, int]
    categories: int
    tail: float
    objects: float
    sides: tuple[float, float]
    ratios: tuple[float, ...]
    has_masks: bool = True
    is_federated: bool = False


KINDS = {
    "shapes of 144 pixels": Kind(1000, (144, 144), 20, 1.2, 3, (18, 60), (0.7, 1, 1.4)),
    "small objects in large images": Kind(300, (1600, 1200), 10, 0.5, 40, (12, 60), (0.5, 1, 2)),
    "elongated boxes without masks": Kind(
        600, (1280, 720), 4, 0, 6, (30, 200), (1 / 8, 1 / 5, 5, 8), has_masks=False
    ),
    "40 images of 60 categories": Kind(40, (800, 600), 60, 0.3, 6, (80, 350), (0.6, 1, 1.6)),
    "federated long tail": Kind(
        400, (320, 240), 56, 1.1, 4, (25, 130), (0.6, 1, 1.6), is_federated=True
    ),
}


def drawn(kind: Kind, seed: int) -> dict[str, Any]:
    """Draw the content of an annotation file."""
    rng = np.random.default_rng(seed)
    width, height = kind.size
    share = 1 / np.arange(1, kind.categories + 1) ** kind.tail
    annotations, images = [], []
    for image in range(1, kind.images + 1):
        number = 1 + rng.poisson(kind.objects - 1)
        categories = rng.choice(kind.categories, number, p=share / share.sum()) + 1
        for category in categories.tolist():
            side = np.exp(rng.uniform(*np.log(kind.sides)))
            ratio = rng.choice(kind.ratios) * np.exp(rng.normal(0, 0.1))
            w = min(side / np.sqrt(ratio), 0.95 * width)
            h = min(side * np.sqrt(ratio), 0.95 * height)
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            box = [round(float(v), 2) for v in (x, y, w, h)]
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
            annotation |= {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            if kind.has_masks:
                x, y, w, h = box
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(annotation)
        entry = {"id": image, "file_name": f"{image}.jpg", "width": width, "height": height}
        if kind.is_federated:
            entry |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        images.append(entry)
    categories = [{"id": i + 1, "name": f"category {i + 1}"} for i in range(kind.categories)]
    return {"images": images, "annotations": annotations, "categories": categories}


def measures_of(kind: Kind, seed: int) -> DatasetMeasures:
    """Return the measurements of a drawn dataset, read as any annotation file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "drawn.json")
        path.write_text(json.dumps(drawn(kind, seed)))
        return measure(read_annotations(path))


def fixed_resize(cfg: Any) -> Resize:
    """Return the resize of the base config."""
    given = cfg.dataloader.test.mapper.augmentations[0]
    return Resize(given.short_edge_length, given.max_size)


def chosen_anchors(choices: Any, recipe: Recipe) -> Anchors:
    """Return the anchors that were chosen."""
    settings = next(choice.settings for choice in choices if choice.subject == "anchors")
    generator = "model.proposal_generator.anchor_generator"
    if not settings:
        return recipe.anchors
    sizes = [sizes[0] for sizes in settings[f"{generator}.sizes"]]
    return Anchors(sizes, settings[f"{generator}.aspect_ratios"], recipe.anchors.strides)


def row(name: str, cfg: Any, recipe: Recipe, say: Callable[[str], None]) -> str:
    """Choose for one dataset and return its row of the table."""
    data, other = measures_of(KINDS[name], seed=0), measures_of(KINDS[name], seed=1)
    choices = choose(data, recipe, len(data.image_sizes) // 4)
    say(f"\n{name}\n{data.text()}\n{choices_text(choices)}")
    value = {choice.subject: choice.value for choice in choices}
    resize, fixed = choose_resize(data, recipe)[0], fixed_resize(cfg)

    def visible(by: Resize) -> float:
        return (
            100 * (other.sides * by.scales(other.image_sizes)[other.image] >= LEAST_VISIBLE).mean()
        )

    def reached(boxes: Boxes, anchors: Anchors) -> str:
        found = reach(boxes, anchors)
        return f"{100 * found.at_50:.0f} / {100 * found.at_70:.0f}"

    boxes = resized_boxes(other, resize)
    cells = [
        name,
        value["resize"].split(",")[0].removeprefix("short edge "),
        value["batch"].removesuffix(" images"),
        value["length"].removesuffix(" steps"),
        value["repeats"].removeprefix("threshold "),
        value["anchors"].replace(" pixels; height / width", ";").removeprefix("sizes "),
        f"{visible(fixed):.0f} -> {visible(resize):.0f}",
        f"{reached(boxes, recipe.anchors)} -> {reached(boxes, chosen_anchors(choices, recipe))}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="own_data/cpu")
    parser.add_argument("--verbose", action="store_true", help="print measurements and reasons")
    arguments = parser.parse_args()
    cfg = load_config(arguments.config)
    recipe = recipe_of(arguments.config, cfg, cfg.train.reference_world_size)
    say: Callable[[str], None] = print if arguments.verbose else lambda text: None
    rows = [row(name, cfg, recipe, say) for name in KINDS]
    print("\n| | short edge | batch | steps | repeats | anchors | visible, % | reached, % |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
