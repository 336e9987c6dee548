import pytest

from d2_seesaw.data.annotation_reader import columns_from_json, compressed_rle
from tests.data import own_data


@pytest.fixture
def data():
    return own_data.content()


def test_annotations_that_cannot_be_used_are_told_apart(data):
    bad = {
        1: {"category_id": 8},
        2: {"image_id": 4},
        3: {"bbox": [1, 2, float("nan"), 4]},
        4: {"segmentation": [[1, 1, float("inf"), 1, 5, 5]]},
        5: {"segmentation": {"size": [own_data.H, own_data.W], "counts": [3, 4]}},
        6: {"bbox": [1, 2, 3]},
    }
    for annotation in data["annotations"]:
        annotation.update(bad.get(annotation["id"], {}))
    columns, complaints = columns_from_json(data)
    assert [complaint.split()[1] for complaint in complaints] == [f"{i}" for i in bad]
    for complaint, words in zip(
        complaints,
        ("unknown category 8", "unknown image 4", "bbox", "polygon", "run-length", "bbox"),
        strict=True,
    ):
        assert words in complaint
    assert columns.image.tolist() == [3]
    assert columns.rle_size.tolist() == [[0, 0]]
    assert len(columns.rle) == 0


def test_repeated_and_absent_annotation_ids_are_told(data):
    data["annotations"][1]["id"] = 1
    del data["annotations"][2]["id"]
    _, complaints = columns_from_json(data)
    assert complaints == ["annotations share the id 1", "annotations[2] has no 'id'"]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("images", {"id": 3}, "images share the id 3"),
        ("categories", {"id": 7}, "categories share the id 7"),
        ("categories", {"name": "kerb"}, "categories share the name 'kerb'"),
        ("images", {"height": None}, r"images\[0\] has no 'height'"),
        ("images", {"file_name": None}, "image 12 has neither a 'file_name' nor a 'coco_url'"),
        ("categories", {"id": None}, r"categories\[0\] has no 'id'"),
    ],
)
def test_a_file_that_is_not_in_the_format_is_refused(data, section, change, message):
    entry = data[section][0]
    entry.update(change)
    for key in [key for key, value in change.items() if value is None]:
        del entry[key]
    with pytest.raises(ValueError, match=message):
        columns_from_json(data)


def test_names_are_text_whatever_the_file_has(data):
    data["categories"] = [{"id": 7}, {"id": 40, "name": 12}, {"id": 1000, "name": None}]
    columns, _ = columns_from_json(data)
    assert columns.categories == [
        {"id": 7, "name": "7"},
        {"id": 40, "name": "12"},
        {"id": 1000, "name": "1000"},
    ]


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_a_missing_section_is_named(data, section):
    del data[section]
    with pytest.raises(ValueError, match=f"no list of '{section}'"):
        columns_from_json(data)


def test_an_uncompressed_encoding_is_the_compressed_one():
    mask = own_data.mask_of(5, 3, 7)
    assert compressed_rle(own_data.uncompressed(mask)) == own_data.compressed(mask)
    with pytest.raises(ValueError, match=r"must add up to 2 x 2, got 5"):
        compressed_rle({"size": [2, 2], "counts": [5]})


def test_ids_may_be_text(data):
    for image in data["images"]:
        image["id"] = f"i{image['id']:02d}"
    for annotation in data["annotations"]:
        annotation["image_id"] = f"i{annotation['image_id']:02d}"
    columns, complaints = columns_from_json(data)
    assert complaints == []
    assert [image["id"] for image in columns.images] == ["i03", "i05", "i12", "i90"]
