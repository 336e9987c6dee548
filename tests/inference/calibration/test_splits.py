"""Images that a calibration is fitted on: never evaluated ones."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from d2_seesaw.data import register_longtail_instances
from d2_seesaw.inference.calibration import (
    FittingSplit,
    MatchedClasses,
    choose_images,
    match_classes,
    training_counts,
)
from d2_seesaw.inference.calibration.splits import ground_truth_of, in_classes_of_model

SIDE = 8
SAME = MatchedClasses((0, 1, 2), 3)


def write(folder, split, images, federated=(), crowds=()):
    """Write images, a dict of name to (id, gray value, classes), and register them."""
    (folder / split).mkdir()
    entries, annotations = [], []
    for name, (image_id, gray, classes) in images.items():
        Image.new("L", (SIDE, SIDE), gray).save(folder / split / name)
        entries.append({"id": image_id, "file_name": name, "height": SIDE, "width": SIDE})
        entries[-1].update(federated)
        for category in classes:
            annotation = {"id": len(annotations) + 1, "image_id": image_id}
            annotation |= {"category_id": 10 * category + 10, "bbox": [1, 1, 4, 4], "area": 16}
            annotations.append({**annotation, "iscrowd": int(len(annotations) in crowds)})
    categories = [{"id": 10 * c + 10, "name": f"c{c}"} for c in range(3)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))
    name = f"calibration_{split}"
    register_longtail_instances(name, json_file=folder / f"{split}.json", image_root=folder / split)
    return name


@pytest.fixture
def train(tmp_path):
    images = {f"{i}.png": (i, 10 * i, [0, 0] if i < 15 else [1]) for i in range(1, 21)}
    yield write(tmp_path, "train", images)
    for name in [n for n in DatasetCatalog.list() if n.startswith("calibration_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_seed_decides_which_images_are_drawn(train):
    draws = [choose_images(train, None, SAME, fraction=0.3, seed=s) for s in (0, 0, 1)]
    ids = [[r["image_id"] for r in split.records] for split in draws]
    assert ids[0] == ids[1] == sorted(ids[0])
    assert ids[0] != ids[2]
    assert len(ids[0]) == 6
    assert str(draws[0]) == f"6 of 20 images of {train}, seed 0"
    assert str(choose_images(train, None, SAME)) == f"20 of 20 images of {train}"
    assert len(choose_images(train, None, SAME, fraction=0.001).records) == 1
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], got 0"):
        choose_images(train, None, SAME, fraction=0)


def test_the_evaluated_split_is_refused_by_its_name(train):
    for evaluated in (train, ["other", train]):
        with pytest.raises(ValueError, match=f"{train} is the test split of the config"):
            choose_images(train, evaluated, SAME)


def test_a_shared_image_is_refused_even_if_it_is_not_drawn(train, tmp_path):
    copied = write(tmp_path, "copied", {"other_name.png": (99, 200, [0])})  # as train's image 20
    same_file = "calibration_same_file"
    register_longtail_instances(
        same_file, json_file=tmp_path / "train.json", image_root=tmp_path / "train"
    )
    for evaluated, image in ((copied, 20), (same_file, 1)):
        with pytest.raises(ValueError, match=f"image {image} to fit on, .* of the test split"):
            choose_images(train, evaluated, SAME, fraction=0.05)


def test_other_images_with_the_same_ids_and_names_are_accepted(train, tmp_path):
    images = {f"{i}.png": (i, 10 * i + 5, [2]) for i in range(1, 5)}
    other = write(tmp_path, "other", images)
    assert len(choose_images(train, other, SAME).records) == 20


def test_classes_are_counted_by_images_or_instances_without_crowds(train, tmp_path):
    assert training_counts(train, SAME).tolist() == [14, 6, 0]
    assert training_counts(train, SAME, of="instances").tolist() == [28, 6, 0]
    with pytest.raises(ValueError, match=r"of must be one of .* got 'pixels'"):
        training_counts(train, SAME, of="pixels")
    with pytest.raises(ValueError, match="has 3 categories, the model 1 classes"):
        match_classes(train, None, 1, "the model")
    with_crowd = write(tmp_path, "crowd", {"a.png": (1, 5, [0, 0, 1])}, crowds=(1,))
    assert training_counts(with_crowd, SAME, of="instances").tolist() == [1, 1, 0]


def test_classes_are_found_by_their_names(train, tmp_path):
    names = ["c2", "other", "c0", "c1"]
    classes = match_classes(train, names, 4, "the model")
    assert classes.of_model == (2, 3, 0)
    assert "has 3 of the 4 classes of the model, mapped by name" in classes.message
    assert training_counts(train, classes).tolist() == [0, 0, 14, 6]
    last = choose_images(train, None, classes).records[-1]
    assert [a["category_id"] for a in last["annotations"]] == [3]
    assert last["negative_classes"] == [0, 2]  # nobody looked for "other"
    federated = (
        {"a.png": (1, 5, [1])},
        {"neg_category_ids": [30], "not_exhaustive_category_ids": []},
    )
    split = choose_images(write(tmp_path, "lvis", *federated), None, classes)
    assert split.records[0]["negative_classes"] == [0]
    truth = ground_truth_of(split, 4, np.array([5, 50, 500, 1]))
    assert (truth.verified_pairs.tolist(), truth.categories.tolist()) == ([0, 3], [3])
    with pytest.raises(ValueError, match=r"has other classes than the model: .* 'c0'"):
        match_classes(train, ["a", "b", "c"], 3, "the model")


def test_the_ground_truth_has_the_boxes_groups_and_federated_sets_of_the_records():
    MetadataCatalog.get("calibration_lvis")  # without a mapping, as LVIS: category id minus 1
    records = [
        {"file_name": "a.png", "height": SIDE, "width": SIDE, "image_id": 7}
        | {"annotations": [{"category_id": 1, "bbox": [1, 2, 5, 7], "bbox_mode": BoxMode.XYXY_ABS}]}
        | {"neg_category_ids": [1], "not_exhaustive_category_ids": [2]},
        {"file_name": "b.png", "height": SIDE, "width": SIDE, "image_id": 9, "annotations": []}
        | {"neg_category_ids": [], "not_exhaustive_category_ids": []},
    ]
    names = ["calibration_lvis"]
    records = [in_classes_of_model(record, names, SAME) for record in records]
    split = FittingSplit(names, records, 2, 0)
    truth = ground_truth_of(split, 3, np.array([5, 50, 500]))
    MetadataCatalog.remove("calibration_lvis")
    assert truth.boxes.tolist() == [[1, 2, 4, 5]]
    assert truth.image_ids.tolist() == [0, 1]
    assert truth.category_ids.tolist() == [1, 2, 3]
    assert [g.tolist() for g in truth.groups.values()] == [[0], [1], [2]]
    # Pairs of class and image: class 0 is absent from image 0, class 1 is there, and more of it.
    assert truth.verified_pairs.tolist() == [0, 2]
    assert truth.open_pairs.tolist() == [2]
    assert not truth.exhaustive.any()
