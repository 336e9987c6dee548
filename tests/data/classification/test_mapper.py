"""Mapper of labeled images. Oracles: torchvision's transforms on Pillow's image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import (
    CenterCrop,
    ColorJitter,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

from d2_seesaw.data import ClassificationDatasetMapper
from d2_seesaw.data.bad_images import MappedDataset

TRAINING = [
    RandomResizedCrop(24),
    RandomHorizontalFlip(),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0),
]


@pytest.fixture
def record(tmp_path):
    pixels = np.random.randint(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 5,
        "annotations": [{"category_id": 3}],
        "listed_at": "x:1",
    }


def test_evaluation_resizes_and_crops_as_torchvision(record):
    found = ClassificationDatasetMapper([Resize(32), CenterCrop(28)])(record)
    expected = CenterCrop(28)(Resize(32)(Image.open(record["file_name"])))
    assert torch.equal(found.pop("image"), torch.from_numpy(np.array(expected)).permute(2, 0, 1))
    size = {"height": 40, "width": 60}
    assert found == {"label": 3, "file_name": record["file_name"], "image_id": 5} | size


def test_training_draws_from_the_seeded_generator_as_torchvision(record):
    torch.manual_seed(4)
    found = ClassificationDatasetMapper(TRAINING)(record)["image"]
    torch.manual_seed(4)
    image = Image.open(record["file_name"])
    for transform in TRAINING:
        image = transform(image)
    assert torch.equal(found, torch.from_numpy(np.array(image)).permute(2, 0, 1))


def test_augmentations_depend_on_the_position_alone(record):
    data = MappedDataset([record], ClassificationDatasetMapper(TRAINING), seed=1)
    first, other, again = (data[(position, 0)]["image"] for position in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bgr_reverses_the_channels(record):
    images = [
        ClassificationDatasetMapper([], image_format=order)(record)["image"]
        for order in ("RGB", "BGR")
    ]
    assert torch.equal(images[0].flip(0), images[1])


def test_gray_images_get_three_channels(record):
    Image.open(record["file_name"]).convert("L").save(record["file_name"])
    assert ClassificationDatasetMapper([])(record)["image"].shape == (3, 40, 60)


def test_tensors_and_unlabeled_records_are_refused(record):
    with pytest.raises(ValueError, match="must return a Pillow image, got Tensor: leave out ToT"):
        ClassificationDatasetMapper([ToTensor()])(record)
    with pytest.raises(ValueError, match=r"a\.png must have one label, it has 0 annotations"):
        ClassificationDatasetMapper([])({**record, "annotations": []})
