"""The split of one annotation file by image, or by group of images."""

import hashlib
import json

import numpy as np
import pytest

from d2_seesaw.data.annotations.coco import parse_text
from d2_seesaw.own_data.groups import find_groups
from d2_seesaw.own_data.split import split_images
from d2_seesaw.own_data.split_files import write_split
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


def split_by_image(table, share=0.2):
    """Split without groups, as a table of images and categories: the reference."""
    shown = np.zeros((len(table.images), len(table.categories)), bool)
    shown[table.image, table.category] = True
    names = [image["file_name"] for image in table.images]
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    val = []
    for category in np.argsort(shown.sum(0), kind="stable"):
        for i in order:
            wanted = max(1, round(share * int(shown[:, category].sum())))
            is_enough = shown[val, category].sum() >= wanted
            left = np.delete(shown, [*val, i], axis=0).any(axis=0)
            if not is_enough and i not in val and shown[i, category] and left[shown[i]].all():
                val.append(i)
    empty = [i for i in order if not shown[i].any()]
    val += empty[: round(share * len(empty))]
    return {table.images[i]["id"] for i in val}


@pytest.mark.parametrize("seed", range(4))
def test_images_without_groups_are_split_one_by_one(seed):
    data = random_content(60, 8, seed)
    rng = np.random.default_rng(seed)
    data["annotations"] = [entry for entry in data["annotations"] if rng.random() < 0.6]
    assert split_images(parse(data)).val == split_by_image(parse(data))


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_together_and_categories_are_in_both_parts(seed):
    rng = np.random.default_rng(seed)
    data = random_content(300, 12, seed)
    groups = rng.permutation(np.repeat(np.arange(40), rng.multinomial(300, np.full(40, 1 / 40))))
    group_of = dict(zip(range(1, 301), groups.tolist(), strict=True))
    split = split_images(parse(data), groups=groups)
    val = {group_of[i] for i in split.val}
    assert split.val == {i for i in group_of if group_of[i] in val}
    with_category = {c: set() for c in range(1, 13)}
    for entry in data["annotations"]:
        with_category[entry["category_id"]].add(group_of[entry["image_id"]])
    for shown in with_category.values():
        assert len(shown) < 2 or (shown & val and shown - val)
    assert 0.15 < len(split.val) / 300 < 0.35


@pytest.mark.parametrize("large", [0, 1, 2])
def test_a_group_far_above_the_share_is_trained_on(large):
    data = random_content(120, 1)
    groups = (np.arange(120) >= 100).astype(int) + (np.arange(120) >= 110)
    groups = (groups + large) % 3  # a group of 100 images and two of 10
    split = split_images(parse(data), groups=groups)
    assert split.val == set(range(101, 121))
    with pytest.raises(ValueError, match="has 120 images, which are all in one group: give two"):
        split_images(parse(data), groups=np.zeros(120, int))


@pytest.mark.parametrize("pattern", [None, r"^v\d+"])
def test_a_file_that_grows_keeps_its_images_in_their_part(pattern):
    data = random_content(160, 9)
    for image in data["images"]:
        image["file_name"] = f"v{image['id'] % 31}/{image['id']}.png"

    def split(number, earlier=None):
        part = data | {"images": data["images"][:number]}
        part["annotations"] = [a for a in data["annotations"] if a["image_id"] <= number]
        groups = None
        if pattern:
            groups = np.array([image["id"] % 31 for image in part["images"]])
        return split_images(parse(part), groups=groups, earlier=earlier).val

    first = split(100)
    earlier = {image["file_name"]: image["id"] in first for image in data["images"][:100]}
    assert split(100, earlier) == first
    grown = split(160, earlier)
    assert {i for i in grown if i <= 100} == first
    assert {i for i in split(160) if i <= 100} != first
    assert 0.15 < len(grown) / 160 < 0.35
    if not pattern:
        assert 0.1 < len(grown - first) / 60 < 0.35
    earlier["v1/1.png"], earlier["v1/32.png"] = True, False  # a group in both parts is trained on
    assert not pattern or not {1, 32, 63} & split(160, earlier)
    with pytest.raises(ValueError, match="or evaluating one that was trained on: see --output"):
        split(100, dict.fromkeys(earlier, False))


def test_records_copies_and_matches_are_groups(tmp_path):
    names = ["a/1.png", "a/1.png", "b/1.png", "b/2.png", "c/1.png", "d.png"]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"same" if name in ("b/2.png", "c/1.png") else name.encode())

    def grouped(pattern):
        groups = find_groups(images, tmp_path, pattern, progress=False)
        together = {frozenset(np.flatnonzero(groups.of_image == g)) for g in groups.of_image}
        return {tuple(sorted(g)) for g in together if len(g) > 1}, groups.text(), groups.unmatched

    stay = "2 groups of two or more images, {} images in all, stay in one part: 1 by several "
    stay += "records of a file, 1 by equal content of files"
    assert grouped(None) == ({(0, 1), (3, 4)}, stay.format(4), 0)
    by_folder = grouped("^[^/]+(?=/)")
    assert by_folder == (
        {(0, 1), (2, 3, 4)},
        f"{stay.format(5)}, 2 by --group-by ^[^/]+(?=/)",
        1,
    )
    assert grouped(r"(^.)/\d")[0] == by_folder[0]
    assert grouped("png")[0] == {(0, 1, 2, 3, 4, 5)}
    with pytest.raises(
        ValueError, match="--group-by 'jpg' finds nothing in the file names of 6 images, such"
    ):
        grouped("jpg")


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
    write_split(path, split, tmp_path / "out")  # the same files


@pytest.mark.parametrize("text", [json.dumps(content()), "[]", "not JSON"])
def test_no_file_of_the_user_is_overwritten(tmp_path, text):
    data = content()
    whole = tmp_path / "split_train.json"
    whole.write_text(json.dumps(data))
    paths = write_split(whole, split_images(parse(data)), tmp_path)
    before = paths[0].read_bytes()
    paths[1].write_text(text)
    with pytest.raises(ValueError, match=r"split_val_.*.json exists and is not what train --data"):
        write_split(whole, split_images(parse(data)), tmp_path)
    assert paths[1].read_text() == text
    assert json.loads(whole.read_text()) == data
    data["annotations"].pop()
    whole.write_text(json.dumps(data))
    assert not {*paths} & {*write_split(whole, split_images(parse(data)), tmp_path)}
    assert (paths[0].read_bytes(), paths[1].read_text()) == (before, text)


def test_one_image_cannot_be_split():
    data = content()
    data["images"], data["annotations"] = data["images"][:1], data["annotations"][3:4]
    with pytest.raises(ValueError, match="it has 1 images: give two files"):
        split_images(parse(data))
