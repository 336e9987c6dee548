import pytest
from detectron2.data import MetadataCatalog

from d2_seesaw.evaluation.lvis.annotations import (
    annotation_file,
    category_of_class,
    check_lvis_format,
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


def check(data, *, with_masks=True):
    table = GroundTruthColumns.from_dataset(data).table
    check_lvis_format(table, "x.json", with_masks=with_masks)


def test_lvis_annotations_are_accepted(data):
    check(data)


def test_coco_annotations_are_refused_with_every_missing_field(data):
    for category in data["categories"]:
        del category["frequency"]
    for image in data["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    with pytest.raises(ValueError, match=r"x\.json cannot") as error:
        check(data)
    assert "3 of 3 categories have no 'frequency'" in str(error.value)
    assert "1 of 1 images have no 'neg_category_ids'" in str(error.value)
    assert "1 of 1 images have no 'not_exhaustive_category_ids'" in str(error.value)


def test_annotations_need_a_segmentation_only_for_masks(data):
    del data["annotations"][1]["segmentation"]
    check(data, with_masks=False)
    with pytest.raises(ValueError, match=r"1 of 2 annotations .*'segmentation'.*tasks=\('bbox',\)"):
        check(data)


@pytest.mark.parametrize("segmentation", [None, [], {}])
def test_a_mask_that_is_empty_is_refused_before_pycocotools_fails_on_it(data, segmentation):
    data["annotations"][1]["segmentation"] = segmentation
    check(data, with_masks=False)
    with pytest.raises(ValueError, match=r"1 of 2 annotations have no 'segmentation'"):
        check(data)


def test_polygons_that_pycocotools_mistakes_for_boxes_are_refused(data):
    data["annotations"][1]["segmentation"] = [[0, 0, 9, 0, 9, 9], [1, 1, 5, 5], [1, 1]]
    check(data, with_masks=False)
    message = (
        r"1 of 2 annotations have polygons of fewer than three points, for example 2; to .*bbox"
    )
    with pytest.raises(ValueError, match=message):
        check(data)


def test_a_test_split_needs_no_federated_sets(data):
    data["annotations"] = []
    del data["images"][0]["neg_category_ids"]
    check(data)


def test_an_unknown_frequency_is_refused(data):
    data["categories"][0]["frequency"] = "rare"
    with pytest.raises(ValueError, match=r"must be in \('r', 'c', 'f'\), got \['rare'\]"):
        check(data)


@pytest.mark.parametrize("section", ["images", "annotations"])
def test_ids_that_are_not_unique_are_refused(data, section, tmp_path):
    data[section].append(dict(data[section][0]))
    refused(data, tmp_path, f"two {section} have the id 1")


def refused(data, tmp_path, message, **options):
    json_file = str(write_json(tmp_path / "x.json", data))
    with pytest.raises(ValueError, match=rf"x\.json cannot be evaluated as LVIS: .*{message}"):
        read_evaluation_table(json_file, **{"with_masks": True, **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, r"annotations\[0\] has no 'id'"),
        ({"image_id": None}, "annotation 1: the image id None"),
        ({"category_id": [2]}, r"annotation 1: the category id \[2\]"),
        ({"bbox": [1, 2, 3]}, "annotation 1: 'bbox' must be four numbers"),
        ({"area": "large"}, "1 of 2 annotations have no 'area'"),
    ],
)
def test_values_that_cannot_be_scored_are_reported(data, tmp_path, change, message):
    data["annotations"][0].update(change)
    refused(data, tmp_path, message, with_masks=False)


def test_a_mask_that_cannot_be_read_is_refused_only_if_masks_are_scored(data, tmp_path):
    data["annotations"][0]["segmentation"] = {"size": [9, 9], "counts": [5]}
    refused(data, tmp_path, "annotation 1: the run-length encoding")
    assert len(read_evaluation_table(str(tmp_path / "x.json"), with_masks=False).image) == 2


def test_fields_that_only_training_needs_may_be_missing(data, tmp_path):
    for entry in (*data["images"], *data["categories"]):
        for key in ("height", "width", "coco_url", "name"):
            entry.pop(key, None)
    json_file = str(write_json(tmp_path / "x.json", data))
    table = read_evaluation_table(json_file, with_masks=True)
    assert [c["name"] for c in table.categories] == ["1", "2", "3"]


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
