import json
from collections import Counter, defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest
from detectron2.data.datasets.lvis import load_lvis_json
from lvis import LVIS
from pycocotools import mask as mask_utils

from d2_seesaw.data.frequency import frequency_group
from d2_seesaw.synthetic import instances
from d2_seesaw.synthetic.glyph_scenes import Scene, layout_scene
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import LVIS_V1_PROFILE

SPEC = LongTailSpec(
    num_train_images=300, num_val_images=60, image_size=(96, 128), objects_per_image=(3, 8)
)
TINY = replace(SPEC, num_categories=3, num_train_images=20, num_val_images=10)


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def shown_categories(annotations):
    shown = defaultdict(set)
    for annotation in annotations:
        shown[annotation["image_id"]].add(annotation["category_id"])
    return shown


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return generate_longtail_dataset(tmp_path_factory.mktemp("data"), SPEC, processes=2)


@pytest.fixture(scope="module")
def train(dataset):
    return json.loads(dataset.train_json.read_text())


@pytest.fixture(scope="module")
def val(dataset):
    return json.loads(dataset.val_json.read_text())


def test_detectron2_loads_every_image_with_the_recorded_size(dataset):
    for path in (dataset.train_json, dataset.val_json):
        for record in load_lvis_json(str(path), f"{dataset.root}/"):
            picture = cv2.imread(record["file_name"])
            assert picture.shape == (96, 128, 3)
            assert (record["height"], record["width"]) == (96, 128)


def test_masks_decoded_by_lvis_api_match_the_stated_area_and_box(dataset):
    lvis = LVIS(str(dataset.val_json))
    assert len(lvis.anns) > 100
    for annotation in lvis.anns.values():
        encoded = lvis.ann_to_rle(annotation)
        assert mask_utils.area(encoded) == annotation["area"]
        assert mask_utils.toBbox(encoded).tolist() == annotation["bbox"]


def test_counts_match_the_training_split_in_both_files(dataset, train, val):
    objects = Counter(a["category_id"] for a in train["annotations"])
    images = Counter(c for s in shown_categories(train["annotations"]).values() for c in s)
    for category in train["categories"]:
        assert category["image_count"] == images[category["id"]]
        assert category["instance_count"] == objects[category["id"]]
        assert category["frequency"] == frequency_group(images[category["id"]])
    assert train["categories"] == val["categories"]
    assert dataset.train_image_counts == [images[i] for i in range(1, 21)]


def test_training_follows_the_profile_exactly(dataset):
    planned = SPEC.profile.image_counts(20, 300).tolist()
    assert sorted(dataset.train_image_counts, reverse=True) == planned
    assert dataset.group_sizes == {"r": 4, "c": 7, "f": 9}


def test_category_ids_are_independent_of_frequency(dataset):
    ranks = np.argsort(np.argsort(dataset.train_image_counts))
    assert abs(np.corrcoef(ranks, np.arange(20))[0, 1]) < 0.5


def test_every_category_has_ground_truth_in_validation(val):
    images = Counter(c for s in shown_categories(val["annotations"]).values() for c in s)
    assert set(images) == set(range(1, 21))
    assert min(images.values()) >= SPEC.min_val_images


def test_no_image_is_in_both_splits(dataset, train, val):
    pictures = [p.read_bytes() for p in dataset.root.rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures) == 360
    assert not {i["id"] for i in train["images"]} & {i["id"] for i in val["images"]}


def test_unannotated_objects_are_exactly_those_declared_not_exhaustive(train):
    plan = instances._plan(SPEC)["train"]
    annotated = defaultdict(Counter)
    for annotation in train["annotations"]:
        annotated[annotation["image_id"]][annotation["category_id"]] += 1
    marked = 0
    for job, image in zip(plan, train["images"], strict=True):
        present = Counter(c + 1 for c in job.categories)
        incomplete = [c for c in present if annotated[image["id"]][c] < present[c]]
        assert incomplete == image["not_exhaustive_category_ids"]
        assert not set(image["neg_category_ids"]) & set(present)
        assert len(image["neg_category_ids"]) == SPEC.negatives_per_image
        marked += len(incomplete)
    assert 0.02 < marked / len(plan) < 0.12


def test_annotations_match_the_visible_objects(train):
    job = instances._plan(SPEC)["train"][0]
    rng = instances._generator(SPEC, 1, "train", job.image_id)
    scene: Scene = layout_scene(rng, job.categories, SPEC.image_size, SPEC.style)
    here = [a for a in train["annotations"] if a["image_id"] == job.image_id]
    assert here
    for annotation in here:
        polygons = annotation["segmentation"]
        mask = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, 96, 128)))
        owners = np.unique(scene.owner[mask > 0])
        assert len(owners) == 1
        assert scene.objects[owners[0]].category + 1 == annotation["category_id"]


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    generate_longtail_dataset(tmp_path / "one", TINY, processes=1)
    generate_longtail_dataset(tmp_path / "two", TINY, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_another_seed_gives_other_data(tmp_path):
    generate_longtail_dataset(tmp_path / "a", TINY, processes=1)
    generate_longtail_dataset(tmp_path / "b", replace(TINY, seed=1), processes=1)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_writing_only_annotations_gives_the_same_annotations(tmp_path, dataset):
    spec = replace(SPEC, write_images=False)
    alone = generate_longtail_dataset(tmp_path, spec, processes=1)
    assert alone.train_json.read_bytes() == dataset.train_json.read_bytes()
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.slow
def test_1203_categories_keep_their_long_tail_and_are_all_evaluated(tmp_path):
    spec = LongTailSpec(
        num_categories=1203,
        num_train_images=1500,
        num_val_images=400,
        objects_per_image=(3, 8),
        image_size=(96, 96),
        profile=LVIS_V1_PROFILE,
        write_images=False,
    )
    dataset = generate_longtail_dataset(tmp_path, spec, processes=2)
    planned = LVIS_V1_PROFILE.image_counts(1203, 1500).tolist()
    assert sorted(dataset.train_image_counts, reverse=True) == planned
    annotations = json.loads(dataset.val_json.read_text())["annotations"]
    assert len({a["category_id"] for a in annotations}) == 1203


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_categories": 0}, "num_categories must be at least 1, got 0"),
        ({"num_val_images": 5}, "num_val_images must be enough, .* for 20 categories, got 5"),
        ({"image_size": (8, 64)}, r"image_size must be a height and .* got \(8, 64\)"),
        ({"objects_per_image": (4, 2)}, r"1 <= fewest <= most, got \(4, 2\)"),
        ({"val_flatness": 2}, "val_flatness must be between 0 and 1, got 2"),
    ],
)
def test_invalid_specifications_are_reported(wrong, message):
    with pytest.raises(ValueError, match=message):
        LongTailSpec(**wrong)


def test_zero_processes_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        generate_longtail_dataset(tmp_path, TINY, processes=0)
