"""The augmentations of `authors_cityscapes` configs against those of the authors' code."""

import json
import zlib
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate

from tests.data.authors_case import CASES, CROP, HEIGHT, image_and_labels

GOLDEN = Path(__file__).parents[1] / "golden/recall_semseg_augmentations.json"


@pytest.mark.parametrize("case", CASES)
def test_crops_equal_the_authors_bit_for_bit(case, monkeypatch):
    image, labels = image_and_labels(case)
    draws = CASES[case]
    cfg = LazyConfig.load("configs/common/data/cityscapes_authors.py")
    augmentations = cfg.dataloader.train.mapper.augmentations
    height, width = int(HEIGHT * draws.scale), int(image.shape[1] * draws.scale)
    if height < CROP:
        height, width = 770, 1539
    # They draw floats in [0, 1) and truncate; Detectron2 draws integers, rows first.
    x, y = draws.position
    offsets = iter([int(y * (height - CROP)), int(x * (width - CROP))])
    uniform = iter([np.array(draws.factors), 0.1 if draws.flip else 0.9])
    monkeypatch.setattr(np.random, "uniform", lambda *args, **kwargs: next(uniform))
    monkeypatch.setattr(np.random, "choice", lambda lengths: int(HEIGHT * draws.scale))
    monkeypatch.setattr(np.random, "randint", lambda high: next(offsets))
    augmented = T.AugInput(image, sem_seg=labels)
    T.AugmentationList([instantiate(a) for a in augmentations])(augmented)
    assert augmented.image.shape == (CROP, CROP, 3)
    found = {"image": augmented.image, "labels": augmented.sem_seg}
    sums = {key: zlib.crc32(np.ascontiguousarray(value)) for key, value in found.items()}
    assert sums == json.loads(GOLDEN.read_text())[case]
