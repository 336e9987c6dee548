"""Small label maps on disk, and predictions for them."""

from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

NAMES = ("road", "car", "train", "rider")
C = len(NAMES)
IGNORED = 255


@dataclass
class Picture:
    """True and predicted classes of one image."""

    name: str
    labels: np.ndarray
    predicted: np.ndarray

    def as_input(self):
        return {"file_name": self.name, "height": self.labels.shape[0]}

    def as_output(self):
        scores = torch.nn.functional.one_hot(torch.from_numpy(self.predicted).long(), C)
        return {"sem_seg": scores.permute(2, 0, 1).float() + torch.rand(C, 1, 1) / 4}


def blocks(rng, size, choices, probabilities=None, cell=6):
    """Draw random rectangles, which have boundaries and interiors."""
    coarse = rng.choice(choices, (-(-size[0] // cell), -(-size[1] // cell)), p=probabilities)
    return np.kron(coarse, np.ones((cell, cell), dtype=np.int64))[: size[0], : size[1]]


def pictures(number=5, seed=0, probabilities=(0.7, 0.2, 0.06, 0.0, 0.04)):
    """Draw pictures with ignored pixels; by default class 3 is predicted but never true."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(number):
        size = (20 + 5 * i, 33)
        labels = blocks(rng, size, [*range(C), IGNORED], probabilities)
        guess = blocks(rng, size, range(C), cell=4)
        keep = rng.random(size) < 0.8
        predicted = np.where(keep & (labels != IGNORED), labels, guess)
        labels[0, :5] = IGNORED
        made.append(Picture(f"{i}.jpg", labels.astype(np.uint8), predicted))
    return made


def register(folder, name, data, **fields):
    """Write the labels of ``data`` and register them as ``name``."""
    records = []
    for picture in data:
        path = folder / f"{name}_{picture.name}.png"
        Image.fromarray(picture.labels).save(path)
        height, width = picture.labels.shape[:2]
        records.append(
            {
                "file_name": picture.name,
                "sem_seg_file_name": str(path),
                "height": height,
                "width": width,
                **fields,
            }
        )
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list(NAMES), ignore_label=IGNORED)


def unregister(name):
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def run(evaluator, data):
    evaluator.reset()
    for picture in data:
        evaluator.process([picture.as_input()], [picture.as_output()])
    return evaluator.evaluate()
