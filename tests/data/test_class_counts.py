"""Tests of the class counts of training splits that configs give to losses."""

import copy
import pickle

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

from d2_seesaw.data import register_longtail_instances, training_class_counts
from d2_seesaw.data.annotations import reader
from tests.data import own_data

NAME, OTHER = "tests_counts_train", "tests_counts_other"
IMAGES, INSTANCES = [3, 2, 1], [4, 2, 1]  # of the data in own_data


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name in (NAME, OTHER):
        for known in (DatasetCatalog, MetadataCatalog):
            if name in known:
                known.remove(name)


def longtail(folder, data=None, name=NAME):
    json_file = own_data.write(folder, data, f"{name}.json")
    register_longtail_instances(name, None, json_file, folder / "images")
    return json_file


def coco(folder, data=None, name=NAME):
    json_file = own_data.write(folder, data, f"{name}.json")
    register_coco_instances(name, {}, str(json_file), str(folder / "images"))
    return json_file


def dicts(folder, data=None, name=NAME):
    longtail(folder, data, f"{name}_source")
    records = DatasetCatalog.get(f"{name}_source")
    for known in (DatasetCatalog, MetadataCatalog):
        known.remove(f"{name}_source")
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = list(own_data.NAMES)


every_way = pytest.mark.parametrize("register", [longtail, coco, dicts])


@every_way
def test_images_and_instances_of_each_class_are_counted(register, tmp_path):
    register(tmp_path)
    assert training_class_counts(NAME)() == IMAGES
    assert training_class_counts([NAME], of="instances")() == INSTANCES


@every_way
def test_crowds_and_boxes_without_an_area_are_no_instances(register, tmp_path):
    data = own_data.content()
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"].append(own_data.annotation(8, 90, 7, side=0))
    register(tmp_path, data)
    assert training_class_counts(NAME, of="instances")() == [3, 2, 1]


def test_counts_of_several_datasets_are_added(tmp_path):
    longtail(tmp_path)
    longtail(tmp_path, name=OTHER)
    assert training_class_counts([NAME, OTHER])() == [6, 4, 2]
    assert training_class_counts([NAME, OTHER], of="instances")() == [8, 4, 2]


@pytest.mark.parametrize("of", ["images", "instances"])
def test_the_named_split_is_counted_not_the_one_of_its_frequency_groups(tmp_path, of):
    longtail(tmp_path)
    few = own_data.content()
    few["annotations"] = few["annotations"][:2]
    for category in few["categories"]:
        category["image_count"] = 5000  # of the whole training split, as in a part of LVIS
    json_file = own_data.write(tmp_path, few, f"{OTHER}.json")
    register_longtail_instances(OTHER, None, json_file, tmp_path / "images", counts_from=NAME)
    # Once an evaluation has read them, the counts of the groups are kept in the metadata.
    assert MetadataCatalog.get(OTHER).class_image_count[0]["image_count"] in IMAGES
    own = [1 if of == "images" else 2, 0, 0]
    assert training_class_counts(OTHER, of=of)() == own
    total = IMAGES if of == "images" else INSTANCES
    both = [a + b for a, b in zip(total, own, strict=True)]
    assert training_class_counts([NAME, OTHER], of=of)() == both


def test_images_of_lvis_v1_come_from_the_metadata_without_a_file():
    counts = training_class_counts("lvis_v1_train")()
    assert counts == [
        c["image_count"] for c in sorted(LVIS_CATEGORY_IMAGE_COUNT, key=lambda c: c["id"])
    ]
    assert len(counts) == 1203


@pytest.mark.parametrize("of", ["images", "instances"])
def test_a_file_that_training_has_read_is_not_parsed_again(tmp_path, monkeypatch, of):
    monkeypatch.setattr(reader, "_LEAST_BYTES_KEPT", 0)  # as if it were large
    longtail(tmp_path)
    DatasetCatalog.get(NAME)
    monkeypatch.delattr(reader, "parse_file")
    assert training_class_counts(NAME, of=of)() == (IMAGES if of == "images" else INSTANCES)


def test_nothing_is_read_before_the_call_and_the_function_can_be_copied(tmp_path):
    function = training_class_counts(NAME, of="instances")  # not registered yet
    longtail(tmp_path)
    for same in (function, copy.deepcopy(function), pickle.loads(pickle.dumps(function))):
        assert same() == INSTANCES


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(
        ValueError, match=r"of must be one of \('images', 'instances'\), got 'rois'"
    ):
        training_class_counts(NAME, of="rois")
    with pytest.raises(ValueError, match="names must have at least one registered dataset"):
        training_class_counts([])


def test_an_unknown_dataset_is_named_with_the_nearest_one(tmp_path):
    longtail(tmp_path)
    with pytest.raises(ValueError, match=f"'tests_counts_tarin' is not registered.*{NAME}"):
        training_class_counts("tests_counts_tarin")()


@pytest.mark.parametrize("of", ["images", "instances"])
@pytest.mark.parametrize("register", [longtail, coco])
def test_a_missing_file_is_named_with_its_dataset(register, tmp_path, of):
    register(tmp_path).unlink()
    with pytest.raises(FileNotFoundError, match=rf"class_counts of dataset '{NAME}'.*{NAME}\.json"):
        training_class_counts(NAME, of=of)()


def test_datasets_with_other_classes_are_refused(tmp_path):
    longtail(tmp_path)
    data = own_data.content()
    data["categories"][0]["name"] = "bollard"
    longtail(tmp_path, data, OTHER)
    with pytest.raises(ValueError, match=f"'{NAME}' and '{OTHER}' have different classes"):
        training_class_counts([NAME, OTHER])()


def test_a_dataset_without_classes_is_refused():
    DatasetCatalog.register(NAME, list)
    with pytest.raises(ValueError, match=f"'{NAME}' has no thing_classes in its metadata"):
        training_class_counts(NAME)()
