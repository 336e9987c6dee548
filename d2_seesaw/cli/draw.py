"""Draw ground truth and predictions side by side, from the files of an evaluation.

Reads the predictions in the run's output folder and writes PNG files to its folder pictures. No
model is run.

Examples:
  d2-seesaw draw --config-file output/quickstart/seesaw/config.yaml
  d2-seesaw draw --config-file output/quickstart/seesaw/config.yaml --num-images 20 --min-score 0.5
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from d2_seesaw.cli import add_image_options, command_parser, errors_in_one_line, say
from d2_seesaw.data import load_dataset
from d2_seesaw.data.image_files import MAX_PIXELS, ImageFolder
from d2_seesaw.engine import load_config
from d2_seesaw.inference import draw_instances, drawing_metadata
from d2_seesaw.inference.drawing import enlargement, fonts_for

RESULTS = "lvis_instances_results.json"


def read_predictions(path: Path, min_score: float) -> dict[int, list[dict[str, Any]]]:
    """Read the predictions with at least ``min_score``, by image id; the best come first.

    Raises:
        FileNotFoundError: the run has not been evaluated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: evaluate the run first")
    by_image = defaultdict(list)
    for prediction in sorted(json.loads(path.read_text()), key=lambda p: -p["score"]):
        if prediction["score"] >= min_score:
            by_image[prediction["image_id"]].append(prediction)
    return by_image


def to_instances(
    predictions: list[dict[str, Any]], image_size: tuple[int, int], classes: Mapping[int, int]
) -> Instances:
    """Convert the predictions of one image for Detectron2's visualizer.

    Args:
        predictions: as in the results file.
        image_size: height and width.
        classes: class index by category id.

    Raises:
        ValueError: a category id that is not among ``classes``.
    """
    unknown = sorted({p["category_id"] for p in predictions} - classes.keys())
    if unknown:
        raise ValueError(
            f"the predictions have categories {unknown[:5]}, which the test data do not have"
        )
    instances = Instances(image_size)
    boxes = [BoxMode.convert(p["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for p in predictions]
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.scores = np.array([p["score"] for p in predictions])
    instances.pred_classes = np.array([classes[p["category_id"]] for p in predictions], dtype=int)
    if all(p.get("segmentation") for p in predictions):
        instances.pred_masks = [p["segmentation"] for p in predictions]
    return instances


def draw(
    image: np.ndarray, record: dict[str, Any], instances: Instances, metadata: Any, scale: float
) -> Any:
    """Draw ground truth on the left and predictions on the right of an RGB image, in BGR."""
    canvas = Visualizer(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)
    with fonts_for(metadata.thing_classes):
        truth = canvas.draw_dataset_dict(record).get_image()
    found = draw_instances(image, instances, metadata, scale)
    pictures = {"ground truth": truth, "predictions": found}
    halves = []
    for kind, rgb in pictures.items():
        picture = np.ascontiguousarray(rgb[:, :, ::-1])
        banner = np.full((28, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(
            banner, kind, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA
        )
        halves.append(np.vstack([banner, picture]))
    return np.hstack(halves)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("draw", __doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="config.yaml that the run has saved")
    add("--num-images", type=int, default=6, metavar="N", help="default: 6")
    add("--min-score", type=float, default=0.3, metavar="SCORE", help="default: 0.3")
    add("--min-side", type=int, default=480, metavar="PIXELS", help="enlarge smaller images")
    add_image_options(parser, MAX_PIXELS)
    return parser


def draw_run(args: argparse.Namespace) -> Path:
    """Draw the first images of the test data; return the folder of the pictures.

    Images that are too large or outside of the dataset's folder are left out with a line.

    Raises:
        FileNotFoundError: the config, the predictions or the dataset do not exist.
        ValueError: the config cannot be read, or the predictions are of other categories.
    """
    cfg = load_config(args.config_file, parts=())
    run = Path(cfg.train.output_dir)
    predictions = read_predictions(run / "inference" / RESULTS, args.min_score)
    name = cfg.dataloader.test.dataset.names
    records = load_dataset(name, filter_empty=False)
    known = MetadataCatalog.get(name)
    metadata = drawing_metadata(known.thing_classes)
    numbered = {index + 1: index for index in range(len(known.thing_classes))}  # as Detectron2 does
    classes = known.get("thing_dataset_id_to_contiguous_id") or numbered
    folder = run / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    # Without a folder of images, the dataset comes from a config and not from a file of others.
    images = ImageFolder(known.get("image_root") or "/", args.follow_links, args.max_pixels)
    for record in records[: args.num_images]:
        try:
            image = images.read(record["file_name"])
        except ValueError as error:
            say(f"left out: {error}")
            continue
        size = (record["height"], record["width"])
        instances = to_instances(predictions[record["image_id"]], size, classes)
        picture = draw(image, record, instances, metadata, enlargement(size, args.min_side))
        cv2.imwrite(str(folder / f"{Path(record['file_name']).stem}.png"), picture)
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Draw the pictures and print where they are."""
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line("draw"):
        folder = draw_run(args)
    say(f"Pictures: {folder}/*.png (ground truth left, predictions right)")
