import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2_seesaw.data import load_dataset
from d2_seesaw.data.quickstart import CLASSES
from d2_seesaw.data.semantic.label_maps import read_labels
from d2_seesaw.synthetic import street
from d2_seesaw.synthetic.street import TRAIN_IMAGE_SHARES, SemanticSpec, generate_semantic_dataset

SMALL = SemanticSpec(num_train_images=8, num_val_images=4, image_size=(64, 96), min_val_images=1)


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def counts(root, split):
    """Count the pixels of each class in each label map."""
    maps = [cv2.imread(str(p), -1) for p in sorted((root / "labels" / split).iterdir())]
    return np.array([np.bincount(labels.ravel(), minlength=256) for labels in maps])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Generate the default dataset with a quarter of the pixels."""
    root = tmp_path_factory.mktemp("data")
    return generate_semantic_dataset(root, SemanticSpec(image_size=(64, 96)))


def test_every_image_has_a_label_map(dataset):
    for split, number in (("train", 300), ("val", 100)):
        images = sorted((dataset.root / "images" / split).iterdir())
        labels = sorted((dataset.root / "labels" / split).iterdir())
        assert len(images) == number == dataset.num_images[split]
        assert [p.stem for p in images] == [p.stem for p in labels]
        for path, labels_path in zip(images[:20], labels[:20], strict=True):
            assert cv2.imread(str(path)).shape == (64, 96, 3)
            record = {"sem_seg_file_name": str(labels_path), "height": 64, "width": 96}
            read_labels(record, num_classes=len(CLASSES))


def test_pixels_span_three_orders_of_magnitude(dataset):
    pixels = counts(dataset.root, "train")[:, : len(CLASSES)].sum(axis=0)
    assert pixels.min() > 0
    assert pixels.max() / pixels.min() > 1000
    assert pixels.argmin() == CLASSES.index("animal")


def test_training_shows_every_class_as_often_as_planned(dataset):
    images = (counts(dataset.root, "train") > 0).sum(axis=0)
    for name, share in TRAIN_IMAGE_SHARES.items():
        if name != "pole":  # signs and lights add poles
            assert images[CLASSES.index(name)] == round(300 * share)
    assert images[CLASSES.index("pole")] >= round(300 * TRAIN_IMAGE_SHARES["pole"])
    assert (images[:4] == 300).all()


def test_validation_is_flatter_and_has_every_class_in_eight_images_or_more(dataset):
    images = (counts(dataset.root, "val") > 0).sum(axis=0)
    assert images[: len(CLASSES)].min() >= 8
    for name, share in TRAIN_IMAGE_SHARES.items():
        if name != "pole":
            assert images[CLASSES.index(name)] == round(100 * share**0.5)


def test_some_borders_are_ignored(dataset):
    for split in ("train", "val"):
        ignored = counts(dataset.root, split)[:, 255]
        assert 0.2 < (ignored > 0).mean() < 0.95
        assert ignored.sum() / (64 * 96 * len(ignored)) < 0.1


def test_there_is_a_minimum_number_of_validation_images():
    plan = street._plan(replace(SMALL, min_val_images=3, val_flatness=0), "val", 10)
    images = Counter(name for shown in plan for name in shown)
    assert images["animal"] == images["taxi"] == images["light"] == 3
    assert images["car"] == 8


def test_splits_differ(dataset):
    pictures = [p.read_bytes() for p in (dataset.root / "images").rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures) == 400


def test_a_file_lists_the_class_names(dataset):
    described = json.loads((dataset.root / "classes.json").read_text())
    assert described == {"classes": list(CLASSES), "ignore_label": 255}
    assert dataset.classes == CLASSES


def test_equal_specifications_give_equal_bytes_and_other_seeds_do_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate_semantic_dataset(tmp_path / name, replace(SMALL, seed=seed))
    first, second, other = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == other.keys()
    same = {name for name in first if first[name] == other[name]}
    assert same == {"classes.json"}


def test_registered_metadata_matches_the_written_data(dataset):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from d2_seesaw.data import register_semantic_folder

    known = MetadataCatalog.get("semantic_quickstart_val")
    name, root = "tests_semantic_generated", dataset.root
    register_semantic_folder(
        name, root / "images" / "val", root / "labels" / "val", classes=known.stuff_classes
    )
    try:
        assert len(load_dataset(name)) == 100
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert known.stuff_classes == list(CLASSES)
    assert known.ignore_label == 255


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_train_images": 0}, "num_train_images must be at least 1, got 0"),
        ({"num_val_images": 0}, "num_val_images must be at least 1, got 0"),
        ({"image_size": (32, 96)}, r"image_size must be a height of .* got \(32, 96\)"),
        ({"image_size": (96, 64)}, r"a width of at least the height, got \(96, 64\)"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"val_flatness": 1.5}, r"val_flatness must be between 0 and 1, got 1\.5"),
        ({"min_val_images": 0}, "min_val_images must be at least 1, got 0"),
    ],
)
def test_invalid_specifications_are_reported(wrong, message):
    with pytest.raises(ValueError, match=message):
        SemanticSpec(**wrong)
