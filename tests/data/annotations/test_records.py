"""Sequence of Detectron2's dicts, which are built on access."""

import copy
import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from PIL import Image

from d2_seesaw.data import RandomSampling, RepeatFactorSampling, build_train_loader
from tests.data import own_data


@pytest.fixture
def table():
    data = own_data.content()
    data["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 5], [6.5, 6, 9, 6, 9, 9.25, 6, 9]]
    data["annotations"][3]["segmentation"] = [[0.1, 1 / 3, 5, -2.5, 2e4, 5]]
    data["annotations"][4]["iscrowd"] = 1
    data["images"][0]["neg_category_ids"] = [1000, 7]
    data["images"].append({"id": 91, "file_name": "a.png", "height": 5, "width": 6})
    return own_data.table(data)


@pytest.fixture
def records(table):
    return table.records(lambda image: f"root/{image['file_name']}")


@pytest.fixture
def files(records, tmp_path, monkeypatch):
    """Create the images of the records below the working folder."""
    monkeypatch.chdir(tmp_path)
    for record in records:
        path = Path(record["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (record["width"], record["height"])).save(path)


def test_records_hold_every_annotation_in_the_order_of_the_file(records):
    names = ("part/3.png", "part/5.png", "part/12.png", "part/90.png", "a.png")
    assert [r["file_name"] for r in records] == records.file_names() == [f"root/{n}" for n in names]
    first, second = records[0]["annotations"]
    assert first["segmentation"] == [[1, 1, 5, 1, 5, 5], [6.5, 6, 9, 6, 9, 9.25, 6, 9]]
    assert second["segmentation"] == [own_data.square(16, 4, 8)]
    rle, polygon = (a["segmentation"] for a in records[1]["annotations"])
    assert rle == own_data.compressed(own_data.mask_of(4, 4, 8))
    assert polygon == [own_data.square(10, 2, 12)]
    assert [a.get("iscrowd", 0) for r in records for a in r["annotations"]] == [0, 0, 0, 1, 0, 0, 0]
    assert (records[4]["annotations"], records[4]["width"]) == ([], 6)


def test_many_annotations_of_an_image_keep_the_order_of_the_file():
    data, rng = own_data.content(), np.random.default_rng(0)
    of_image = rng.choice([3, 5, 12], 400).tolist()
    data["annotations"] = [
        own_data.annotation(i, image, 7) | {"bbox": [i, 0, 1, 1]}
        for i, image in enumerate(of_image)
    ]
    for record in own_data.table(data).records(str):
        expected = [i for i, image in enumerate(of_image) if image == record["image_id"]]
        assert [a["bbox"][0] for a in record["annotations"]] == expected


@pytest.mark.parametrize(
    "number", [1 / 3, 0.005, 2.675, np.nextafter(1.25, 2), 1e-9, -2.5, 9999.99, 10_000.01, 2e4]
)
def test_coordinates_equal_those_in_the_file_at_any_precision_and_range(number):
    data = own_data.content()
    polygon, box = [1.25, 1, 5, number, 5, 5], [float(number), 1, 1.5, 4]
    data["annotations"][0] |= {"segmentation": [polygon], "bbox": box}
    records = own_data.table(data).records(str)
    for made in (records[0], records.to_list()[0]):
        assert made["annotations"][0]["segmentation"] == [polygon]
        assert made["annotations"][0]["bbox"] == box


def test_records_are_a_sequence(records):
    assert len(records) == 5
    assert records[-1] == records[4] == records[np.int64(4)]
    assert list(records[1:3]) == [records[1], records[2]]
    assert next(iter(records[::-1])) == records[4]
    assert records[2] in records
    with pytest.raises(IndexError):
        records[5]


def test_changes_to_a_dict_are_lost_but_changes_to_the_list_are_kept(records):
    before = copy.deepcopy(list(records))
    records[2]["annotations"].clear()
    records[2]["neg_category_ids"].clear()
    records[2]["height"] = 1
    assert list(records) == before
    dicts = records.to_list()
    assert dicts == before
    dicts[2]["annotations"].clear()
    assert dicts[2]["annotations"] == []


def test_values_are_plain_python(records):
    for annotation in (records[0]["annotations"][0], records.to_list()[0]["annotations"][0]):
        assert type(annotation["segmentation"][0][0]) is float
        assert type(annotation["category_id"]) is int
        assert type(annotation["bbox"]) is list


def test_without_masks_there_is_no_segmentation(records):
    data = own_data.content()
    for annotation in data["annotations"]:
        annotation["segmentation"] = None
    for without in (records.without_masks(), own_data.table(data).records(str)):
        found = [set(a) - {"iscrowd"} for record in without for a in record["annotations"]]
        assert found == [{"bbox", "bbox_mode", "category_id"}] * 7
    assert "segmentation" in records[0]["annotations"][0]


def test_images_without_objects_are_the_ones_that_detectron2_filters_out(records, table):
    from detectron2.data.build import filter_images_with_only_crowd_annotations

    crowds = [*range(len(table.image))][4:]
    table.crowd.setflags(write=True)
    table.crowd[crowds] = True
    expected = filter_images_with_only_crowd_annotations(records.to_list())
    assert 0 < len(expected) < 4
    assert list(records.with_objects()) == expected
    assert list(records[1:].with_objects()) == [r for r in expected if r["image_id"] != 3]


def test_equal_coordinates_of_a_list_are_one_object(records):
    dicts = records.to_list()
    numbers = [
        number
        for record in dicts
        for annotation in record["annotations"]
        if isinstance(annotation["segmentation"], list)
        for polygon in annotation["segmentation"]
        for number in polygon
        if number in (1.0, 9.25, 24.0)
    ]
    assert len(numbers) > len(set(map(id, numbers))) == len(set(numbers)) == 3


def test_building_a_list_restores_the_state_of_garbage_collection(records):
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            records.to_list()
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


def test_records_survive_pickling_and_detectron2s_lists(records):
    expected = list(records)
    assert list(pickle.loads(pickle.dumps(records))) == expected
    for serialize in (True, False):
        dataset = DatasetFromList(records, serialize=serialize)
        assert [dataset[i] for i in range(len(dataset))] == expected


@pytest.mark.usefixtures("files")
def test_samplers_get_records_without_masks(records, monkeypatch):
    seen = []
    sampling = RandomSampling()
    for method in ("sampler", "images_per_epoch"):
        original = getattr(sampling, method)
        monkeypatch.setattr(
            sampling, method, lambda d, *seed, f=original: seen.append(d) or f(d, *seed)
        )
    loader = build_train_loader(
        records, mapper=dict, sampling=sampling, total_batch_size=1, num_workers=0
    )
    next(iter(loader))
    assert len(seen) == 2
    assert not any("segmentation" in a for d in seen for r in d for a in r["annotations"])


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_training_loader_builds_records_in_its_workers(records, workers):
    loader = build_train_loader(
        records.with_objects(),
        mapper=dict,
        sampling=RepeatFactorSampling(threshold=0.5),
        total_batch_size=2,
        num_workers=workers,
    )
    assert isinstance(loader.dataset.records, type(records))
    expected = {record["image_id"]: record for record in records}
    for _, batch in zip(range(4), loader, strict=False):
        assert batch == [expected[image["image_id"]] for image in batch]
        assert "segmentation" in batch[0]["annotations"][0]


def test_repeat_factors_need_no_masks(records):
    sampling = RepeatFactorSampling(threshold=0.9)
    expected = sampling.repeat_factors(records.to_list())
    torch.testing.assert_close(sampling.repeat_factors(records.without_masks()), expected)
    assert (expected > 1).any()
