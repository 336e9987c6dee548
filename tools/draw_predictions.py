"""Save pictures of ground truth and predictions side by side, from an evaluated run.

    python tools/draw_predictions.py --config-file output/quickstart/seesaw/config.yaml

Reads the predictions that evaluation wrote into the run's folder; no model is run.
"""

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from d2_seesaw.data import load_dataset
from d2_seesaw.engine import load_config
from d2_seesaw.inference import draw_instances, drawing_metadata
from d2_seesaw.inference.drawing import enlargement

RESULTS = "lvis_instances_results.json"


def read_predictions(path: Path, min_score: float) -> dict[int, list[dict[str, Any]]]:
    """Predictions of at least ``min_score`` by image id, best first.

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


def to_instances(predictions: list[dict[str, Any]], image_size: tuple[int, int]) -> Instances:
    """Predictions of one image as Detectron2's visualizer takes them."""
    instances = Instances(image_size)
    boxes = [BoxMode.convert(p["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for p in predictions]
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.scores = np.array([p["score"] for p in predictions])
    instances.pred_classes = np.array([p["category_id"] - 1 for p in predictions], dtype=int)
    instances.pred_masks = [p["segmentation"] for p in predictions]
    return instances


def draw(
    record: dict[str, Any], predictions: list[dict[str, Any]], metadata: Any, scale: float
) -> Any:
    """Ground truth on the left, predictions on the right, as a BGR image."""
    image = read_image(record["file_name"], format="RGB")
    canvas = Visualizer(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)
    instances = to_instances(predictions, (record["height"], record["width"]))
    pictures = {
        "ground truth": canvas.draw_dataset_dict(record).get_image(),
        "predictions": draw_instances(image, instances, metadata, scale),
    }
    halves = []
    for kind, rgb in pictures.items():
        picture = np.ascontiguousarray(rgb[:, :, ::-1])
        banner = np.full((28, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(
            banner, kind, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA
        )
        halves.append(np.vstack([banner, picture]))
    return np.hstack(halves)


def main() -> None:
    """Draw the first images of the test data."""
    parser = argparse.ArgumentParser(description="Draw ground truth beside predictions.")
    parser.add_argument("--config-file", required=True, help="the config the run has saved")
    parser.add_argument("--num-images", type=int, default=6)
    parser.add_argument("--min-score", type=float, default=0.3)
    parser.add_argument("--min-side", type=int, default=480, help="enlarge smaller images to this")
    args = parser.parse_args()
    cfg = load_config(args.config_file)
    run = Path(cfg.train.output_dir)
    predictions = read_predictions(run / "inference" / RESULTS, args.min_score)
    name = cfg.dataloader.test.dataset.names
    records = load_dataset(name, filter_empty=False)
    metadata = drawing_metadata(MetadataCatalog.get(name).thing_classes)
    folder = run / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for record in records[: args.num_images]:
        scale = enlargement((record["height"], record["width"]), args.min_side)
        picture = draw(record, predictions[record["image_id"]], metadata, scale)
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        cv2.imwrite(str(folder / f"{stem}.png"), picture)
    print(f"Pictures: {folder}/*.png (ground truth left, predictions right)")


if __name__ == "__main__":
    main()
