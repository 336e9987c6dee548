"""What the context encoders of HTC-Lite know about images.

    python benchmarks/evidence/context_encoder.py

The encoder predicts which classes are in an image. For each class in 10 images or more, of the 400
of validation or the first 400 of training, this measures how well the prediction tells images with
the class from those without: the area under the ROC curve, in percent, 50 by chance. Beside it
stands that of knowing the scene of the image and which scene each class belongs to. run.py trains
the models.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import APART, TOGETHER

from d2_seesaw.inference import load_predictor

IMAGES, LEAST_IMAGES = 400, 10


def area_under_roc(scores: np.ndarray, present: np.ndarray) -> float:
    """Return the probability that an image with a class has a higher score than one without.

    Args:
        scores: ``(I,)`` scores of the class; equal ones count half.
        present: ``(I,)`` whether the class is in each image; some are, and some are not.
    """
    differences = scores[present, None] - scores[None, ~present]
    return float((differences > 0).mean() + (differences == 0).mean() / 2)


def mean_area(scores: np.ndarray, present: np.ndarray) -> float:
    """Return the mean area in percent over the classes in at least 10 images, of ``(I, C)``."""
    chosen = np.flatnonzero(present.sum(axis=0) >= LEAST_IMAGES)
    return 100 * statistics.mean(area_under_roc(scores[:, c], present[:, c]) for c in chosen)


def presence(annotations: dict) -> np.ndarray:
    """Return ``(I, C)``: which classes are in each image."""
    index = {image["id"]: i for i, image in enumerate(annotations["images"])}
    present = np.zeros((len(index), len(annotations["categories"])), bool)
    for annotation in annotations["annotations"]:
        present[index[annotation["image_id"]], annotation["category_id"] - 1] = True
    return present


def encoder_scores(checkpoint: Path, images: list[Path]) -> np.ndarray:
    """Return the ``(I, C)`` logits of the context encoder of a model for images."""
    predictor = load_predictor(checkpoint, device="cpu")
    model: Any = predictor.model
    encoder = model.roi_heads.context_encoder
    found = []
    with torch.no_grad():
        for path in images:
            batch = model.preprocess_image([predictor.inputs(path)])
            context = encoder(model.backbone(batch.tensor), batch.image_sizes)
            found.append(encoder.logits(context)[0].numpy())
    return np.stack(found)


def main() -> None:
    """Print the areas of the runs, and those of the scenes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/evidence"))
    args = parser.parse_args()
    print("| data | split | seeds | context encoder | scene |\n| --- | --- | --- | --- | --- |")
    for data in (TOGETHER, APART):
        root = args.output / "data" / data.name / "quickstart"
        content = json.loads((root / "cutouts.json").read_text())
        scenes = np.array([category["scene"] for category in content["categories"]])
        runs = sorted((args.output / "runs").glob(f"htc_lite_{data.name}-*/model_final.pth"))
        for split in ("train", "val"):
            annotations = json.loads((root / f"lvis_{split}.json").read_text())
            present = presence(annotations)[:IMAGES]
            images = [root / image["file_name"] for image in annotations["images"][:IMAGES]]
            areas = [mean_area(encoder_scores(path, images), present) for path in runs]
            of_images = np.array(content["image_scenes"][split][:IMAGES])
            of_scene = mean_area(1.0 * (of_images[:, None] == scenes), present)
            found = ", ".join(f"{area:.1f}" for area in areas)
            print(
                f"| {data.name} | {split} | {len(areas)} | {found} | {of_scene:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
