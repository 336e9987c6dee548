"""Parser of annotation files: strict JSON, numbers as in ``json``, and positions of errors."""

import json

import numpy as np
import pytest

from d2_seesaw.data.annotations.coco import parse_file, parse_text
from tests.data import own_data


@pytest.fixture
def data():
    return own_data.content()


def test_numbers_equal_those_of_json_bit_for_bit(data):
    rng = np.random.default_rng(0)
    digits = [
        f"{rng.uniform(0, 10 ** rng.integers(0, 7)):.{rng.integers(18)}f}" for _ in range(9000)
    ]
    powers = [f"{rng.uniform(-9, 9)!r}e{rng.integers(-330, 290)}" for _ in range(3000)]
    odd = [
        "-0",
        "-0.0",
        "1e5",
        "123456789012345678901234567890",
        "5e-324",
        "2.2250738585072011e-308",
    ]
    numbers = digits + powers + odd
    data["annotations"][0]["segmentation"] = [["numbers"]]
    text = json.dumps(data).replace('"numbers"', ", ".join(numbers))
    found = parse_text(text.encode(), "a.json")
    (expected,) = json.loads(text)["annotations"][0]["segmentation"]
    first, last = found.table.coordinate_offsets[:2]
    coordinates = found.table.coordinates[first:last]
    assert {p.kind for p in found.problems} == {"far_outside_image"}
    assert coordinates.tobytes() == np.array(expected, float).tobytes()


def test_the_table_equals_the_annotations_read_one_by_one(data):
    one, two, three = own_data.square(1, 1, 3), [5, 5, 9, 5, 9, 9], [1, 1, 5, 1, 5, 5]
    rle = own_data.compressed(own_data.mask_of(4, 4, 8))
    uncompressed = own_data.uncompressed(own_data.mask_of(4, 4, 8))
    data["annotations"] = [
        own_data.annotation(11, 3, 40, x=2, segmentation=[one, two]) | {"area": 2.5},
        own_data.annotation(12, 90, 7, segmentation=rle) | {"iscrowd": 1, "ignore": 1},
        own_data.annotation(13, 5, 1000, segmentation=[two, three]),
        own_data.annotation(14, 5, 7, segmentation=uncompressed),
        own_data.annotation(15, 5, 7) | {"segmentation": None},
    ]
    del data["annotations"][0]["iscrowd"]
    data["categories"][0] |= {"image_count": 9, "frequency": "r", "synonyms": ["x"]}
    for category in data["categories"][1:]:
        category["frequency"] = "c"
    for image in data["images"]:
        image |= {"neg_category_ids": [40], "not_exhaustive_category_ids": [], "license": 4}
    found = own_data.parsed(data)
    table = found.table
    assert found.numbers == {"images": 4, "annotations": 5, "categories": 3}
    assert [c["id"] for c in table.categories] == [7, 40, 1000]
    hydrant = {"id": 1000, "name": "hydrant", "image_count": 9, "frequency": "r"}
    assert table.categories[2] == hydrant
    assert [i["id"] for i in table.images] == [3, 5, 12, 90]
    assert table.images[2] == {
        **{"id": 12, "file_name": "part/12.png", "height": own_data.H, "width": own_data.W},
        "neg_category_ids": [40],
        "not_exhaustive_category_ids": [],
    }
    assert table.annotation_id.tolist() == [11, 12, 13, 14, 15]
    assert table.image.tolist() == [0, 3, 1, 1, 1]
    assert table.category.tolist() == [1, 0, 2, 0, 0]
    assert table.crowd.tolist() == table.ignored.tolist() == [False, True, False, False, False]
    np.testing.assert_array_equal(table.area, [2.5, 64, 64, 64, 64])
    assert table.box[0].tolist() == [2, 4, 8, 8]
    assert table.polygon_offsets.tolist() == [0, 2, 2, 4, 4, 4]
    assert table.coordinate_offsets.tolist() == [0, 8, 14, 20, 26]
    assert table.coordinates.tolist() == [*one, *two, *two, *three]
    text, size = rle["counts"].encode(), [own_data.H, own_data.W]
    assert table.rle.tobytes() == text + text
    assert table.rle_offsets.tolist() == [0, 0, len(text), len(text), 2 * len(text), 2 * len(text)]
    assert table.rle_size.tolist() == [[0, 0], size, [0, 0], size, [0, 0]]
    assert [table.segmentation(row) for row in range(5)] == [
        [one, two],
        rle,
        [two, three],
        rle,
        None,
    ]


@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"separators": (",", ":")}])
def test_white_space_and_order_of_sections_do_not_matter(data, form):
    expected = own_data.table(data)
    text = json.dumps(dict(reversed(data.items())) | {"info": {"annotations": [1]}}, **form)
    table = parse_text(text.encode(), "a.json").table
    assert (table.images, table.categories) == (expected.images, expected.categories)
    np.testing.assert_array_equal(table.box, expected.box)
    np.testing.assert_array_equal(table.coordinates, expected.coordinates)


@pytest.mark.parametrize(
    "broken",
    [
        "[[1,,2]]",
        "[[1 2, 3]]",
        "[[1, 2.]]",
        "[[1, 2]",
        "[[01, 2]]",
        "[[.5]]",
        "[[+1]]",
        '["\t"]',
        "'a'",
    ],
)
def test_syntax_errors_have_the_line_and_column_that_json_reports(tmp_path, broken):
    text = f'{{"annotations":\n [{{"id": 1, "segmentation": {broken}}}]}}'
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON: .*line 2 column") as error:
        parse_file(tmp_path / "a.json")
    assert str(expected.value) in str(error.value)


def test_bytes_that_are_not_utf_8_are_refused_anywhere(data):
    text = json.dumps(data).encode()
    for key in (b"part/3", b"kerb", b"counts"):
        with pytest.raises(ValueError, match=r"a\.json is not valid JSON: 'utf-8' codec can't"):
            parse_text(text.replace(key, b"\xff" + key), "a.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_only_python_accepts_are_refused_with_their_position(data, number):
    data["annotations"][2] |= {"bbox": [1, 2, "number", 4]}
    (problem,) = parse_text(json.dumps(data).replace('"number"', number).encode(), "").problems
    assert (problem.kind, problem.annotation_id, problem.field) == ("not_finite", 3, "bbox")
    assert str(float(number)) in problem.message
    data = own_data.content() | {"info": "number"}
    (problem,) = parse_text(json.dumps(data).replace('"number"', number).encode(), "").problems
    assert problem.message.startswith("the file is not strict JSON, which has no NaN or Infinity")
    assert problem.is_error


def test_ids_may_be_text(data):
    for image, name in zip(data["images"], ("b", "10", "9.5", "a"), strict=True):
        image["id"] = name
    data["annotations"] = [own_data.annotation("x", "b", 7), own_data.annotation("y", "9.5", 7)]
    found = own_data.parsed(data)
    assert found.problems == []
    assert [image["id"] for image in found.table.images] == ["10", "9.5", "a", "b"]
    assert found.table.image.tolist() == [3, 1]
    assert found.table.annotation_id.tolist() == ["x", "y"]


def test_annotation_ids_of_several_types_and_of_64_bits_are_kept(data):
    for annotation, name in zip(
        data["annotations"], (1, "1", 2.0, 2**63 - 1, -3, 0, "a"), strict=True
    ):
        annotation["id"] = name
    found = own_data.parsed(data)
    assert found.problems == []
    assert len(found.table.annotation_id) == 7
    assert not found.table.annotation_id.dtype.hasobject


def test_annotations_of_unknown_images_and_categories_are_kept_on_request(data):
    data["annotations"][0]["image_id"], data["annotations"][1]["category_id"] = 4, 8
    assert own_data.table(data).annotation_id.tolist() == [3, 4, 5, 6, 7]
    table = own_data.parsed(data, keep_all=True).table
    assert (table.image[0], table.category[1], len(table.image)) == (-1, -1, 7)


def test_a_repeated_key_of_an_object_has_its_last_value(data):
    text = json.dumps(data).replace('"iscrowd": 0', '"iscrowd": 0, "area": 1, "area": 7.5')
    assert set(parse_text(text.encode(), "").table.area.tolist()) == {7.5}


@pytest.mark.parametrize(("reach", "kind"), [(10, "beyond_image"), (10.1, "far_outside_image")])
@pytest.mark.parametrize("part", ["box", "polygon"])
def test_far_is_more_than_ten_times_the_longer_side_beyond_the_image(data, part, reach, kind):
    right = own_data.W * (1 + reach)  # the images are wider than high
    if part == "box":
        data["annotations"][0]["bbox"] = [0, 0, right, 8]
    else:
        data["annotations"][0]["segmentation"] = [[1, 1, right, 1, 5, 5]]
    kinds = [problem.kind for problem in own_data.parsed(data).problems]
    assert [found for found in kinds if found.endswith(kind)] == kinds
    assert len(kinds) == 1
