"""The split of one annotation file by image."""

import json

import numpy as np
import pytest

from d2_seesaw.data.annotations.coco import parse_text
from d2_seesaw.own_data.split import split_images, write_split
from tests.data.own_data import annotation, content, table


def random_content(images, categories, seed=0):
    """Draw a long tail: category c is in about images / c ** 1.5 images."""
    rng = np.random.default_rng(seed)
    data = content()
    data["categories"] = [{"id": c, "name": f"class {c}"} for c in range(1, categories + 1)]
    data["images"] = [
        {"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in range(1, images + 1)
    ]
    shown = [
        (image, c)
        for image in range(1, images + 1)
        for c in range(1, categories + 1)
        if rng.random() < c**-1.5
    ]
    data["annotations"] = [annotation(k + 1, image, c) for k, (image, c) in enumerate(shown)]
    return data


def parse(data):
    return parse_text(json.dumps(data).encode(), "all.json").table


@pytest.mark.parametrize("seed", range(3))
def test_every_category_of_two_images_is_in_both_splits(seed):
    data = random_content(150, 12, seed)
    split = split_images(parse(data))
    images = {c: set() for c in range(1, 13)}
    for entry in data["annotations"]:
        images[entry["category_id"]].add(entry["image_id"])
    for shown in images.values():
        if len(shown) > 1:
            assert shown & split.val
        if shown:
            assert shown - split.val
    assert 0.15 < len(split.val) / 150 < 0.35


def test_the_order_of_the_file_does_not_matter():
    data = random_content(60, 6)
    first = split_images(parse(data))
    data["images"].reverse()
    data["annotations"].reverse()
    assert split_images(parse(data)) == first


def test_a_category_of_one_image_is_trained_on_and_named():
    split = split_images(table())
    assert 90 not in split.val  # the only image of this category
    assert split.only_trained == ["hydrant"]


def test_the_two_files_are_the_given_one(tmp_path):
    data = content() | {"info": {"year": 2026}}
    path = tmp_path / "all.json"
    path.write_text(json.dumps(data))
    split = split_images(parse(data))
    parts = [json.loads(p.read_text()) for p in write_split(path, split, tmp_path / "out")]
    for section in ("images", "annotations"):
        both = [entry for part in parts for entry in part[section]]
        assert sorted(both, key=lambda e: e["id"]) == sorted(data[section], key=lambda e: e["id"])
    assert all(p["categories"] == data["categories"] and p["info"] == data["info"] for p in parts)
    assert {image["id"] for image in parts[1]["images"]} == split.val
    write_split(path, split, tmp_path / "out")  # replaces its own files


@pytest.mark.parametrize("text", [json.dumps(content()), "[]", "not JSON"])
def test_no_file_of_the_user_is_overwritten(tmp_path, text):
    data = content()
    for name in ("train.json", "split_val.json"):
        (tmp_path / name).write_text(text)
    whole = tmp_path / "all.json"
    whole.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"split_val.json exists and was not written by"):
        write_split(whole, split_images(parse(data)), tmp_path)
    assert (tmp_path / "split_val.json").read_text() == text
    named = tmp_path / "split_train.json"
    whole.rename(named)
    with pytest.raises(ValueError, match="would overwrite it: choose another --output"):
        write_split(named, split_images(parse(data)), tmp_path)
    assert json.loads(named.read_text()) == data
    assert (tmp_path / "train.json").read_text() == text


def test_one_image_cannot_be_split():
    data = content()
    data["images"], data["annotations"] = data["images"][:1], data["annotations"][3:4]
    with pytest.raises(ValueError, match="it has 1 images: give two files"):
        split_images(parse(data))
