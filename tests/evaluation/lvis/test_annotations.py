import pytest
from detectron2.data import MetadataCatalog

from d2_seesaw.evaluation.lvis.annotations import (
    annotation_file,
    category_of_class,
    read_evaluation_table,
)
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from tests.evaluation.lvis_data import add_object, dataset, write_json


@pytest.fixture
def data():
    data = dataset("rcf")
    add_object(data, 1, 1, [0, 0, 9, 9])
    add_object(data, 1, 2, [0, 0, 9, 9])
    return data


def test_the_file_of_a_registered_dataset_is_found(register, data, tmp_path):
    name = register(data)
    assert annotation_file(name) == str(tmp_path / f"{name}.json")


def test_an_unknown_dataset_names_the_nearest_one(register, data):
    name = register(data)
    with pytest.raises(ValueError, match=rf"did you mean '{name}'\?"):
        annotation_file(name.replace("test", "tset"))


def test_asking_for_an_unknown_dataset_does_not_register_it():
    with pytest.raises(ValueError, match="registered as 'no_such_dataset'"):
        annotation_file("no_such_dataset")
    assert "no_such_dataset" not in MetadataCatalog.list()


def test_a_missing_file_is_reported(register, data, tmp_path):
    name = register(data)
    (tmp_path / f"{name}.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no annotations at .*{name}\.json"):
        annotation_file(name)


def read(data, tmp_path, *, with_masks=True):
    return read_evaluation_table(str(write_json(tmp_path / "x.json", data)), with_masks=with_masks)


@pytest.mark.parametrize("segmentation", [None, [], {}, [[1, 1, 5, 5]]])
def test_an_object_without_a_mask_does_not_count_for_masks_nor_do_detections_of_it(
    data, tmp_path, segmentation
):
    data["annotations"][1]["segmentation"] = segmentation
    ground_truth = GroundTruthColumns.from_table(read(data, tmp_path))
    masks = ground_truth.of_task("segm")
    assert masks.areas.tolist() == [81 * 7 / 8]
    assert masks.table.images[0]["not_exhaustive_category_ids"] == [2]
    assert ground_truth.of_task("bbox") is ground_truth
    assert ground_truth.areas.tolist() == [81 * 7 / 8] * 2
    assert ground_truth.table.images[0]["not_exhaustive_category_ids"] == []


def test_masks_of_boxes_alone_are_refused(data, tmp_path):
    for annotation in data["annotations"]:
        del annotation["segmentation"]
    assert read(data, tmp_path, with_masks=False).area.all()
    with pytest.raises(ValueError, match=r"x\.json .*none of its 2 .*tasks=\('bbox',\)"):
        read(data, tmp_path)


def test_a_test_split_needs_neither_annotations_nor_federated_sets(data, tmp_path):
    data["annotations"] = []
    del data["images"][0]["neg_category_ids"]
    assert len(read(data, tmp_path).images) == 1


def test_an_unknown_or_missing_frequency_is_refused(data, tmp_path):
    data["categories"][0]["frequency"] = "rare"
    refused(data, tmp_path, r"category 1: the frequency is 'rare', not in \('r', 'c', 'f'\)")
    del data["categories"][0]["frequency"]
    refused(data, tmp_path, "1 of 3 categories have no 'frequency'")


@pytest.mark.parametrize("section", ["images", "annotations"])
def test_ids_that_are_not_unique_are_refused(data, section, tmp_path):
    data[section].append(dict(data[section][0]))
    refused(data, tmp_path, f"two {section} have the id 1")


def refused(data, tmp_path, message, **options):
    json_file = str(write_json(tmp_path / "x.json", data))
    with pytest.raises(ValueError, match=rf"x\.json cannot be used: .*{message}"):
        read_evaluation_table(json_file, **{"with_masks": True, **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, r"annotations\[0\] has no 'id'"),
        ({"image_id": None}, "annotation 1: the image id None"),
        ({"category_id": [2]}, r"annotation 1: the category id \[2\]"),
        ({"bbox": [1, 2, 3]}, "annotation 1: 'bbox' must be four numbers"),
        ({"area": "large"}, "annotation 1: the area is 'large', not a number"),
        ({"segmentation": {"size": [9, 9], "counts": [5]}}, "annotation 1: the run-length enc"),
    ],
)
def test_values_that_cannot_be_scored_are_reported(data, tmp_path, change, message):
    data["annotations"][0].update(change)
    refused(data, tmp_path, message, with_masks=False)


@pytest.mark.parametrize(
    ("ids", "num_classes", "last"), [([1, 2, 3], 3, 3), ([2], 3, 3), ([1, 5], None, 5)]
)
def test_without_a_mapping_category_ids_are_classes_plus_one(ids, num_classes, last):
    expected = {i: i + 1 for i in range(last)}
    assert category_of_class(ids, None, num_classes) == expected


@pytest.mark.parametrize(("ids", "num_classes"), [([0, 1, 2], 3), ([1, 2, 4], 3), ([0, 1], None)])
def test_category_ids_that_would_be_shifted_are_refused(ids, num_classes):
    with pytest.raises(ValueError, match=r"Category ids must be 1 to .*contiguous_id"):
        category_of_class(ids, None, num_classes)


def test_a_mapping_is_inverted():
    assert category_of_class([7, 9], {9: 0, 7: 1}, 2) == {0: 9, 1: 7}


def test_a_mapping_of_other_categories_is_refused():
    with pytest.raises(ValueError, match=r"\[7, 9\]\.\.\. is in .* which has \['7', '9'\]"):
        category_of_class([7, 9], {"7": 0, "9": 1}, 2)
