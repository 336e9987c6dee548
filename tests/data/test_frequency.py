import pytest

from d2_seesaw.data import category_image_counts, frequency_group, group_sizes


def image(*categories):
    return {"file_name": "a.jpg", "annotations": [{"category_id": c} for c in categories]}


@pytest.mark.parametrize(
    ("image_count", "group"),
    [(0, "r"), (1, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f"), (50_000, "f")],
)
def test_groups_have_the_official_bounds(image_count, group):
    assert frequency_group(image_count) == group


def test_groups_agree_with_the_official_lvis_v1_table():
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
    from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

    counts = {c["id"]: c["image_count"] for c in LVIS_CATEGORY_IMAGE_COUNT}
    groups = {c["id"]: c["frequency"] for c in LVIS_CATEGORIES}
    assert {i: frequency_group(n) for i, n in counts.items()} == groups
    assert group_sizes(list(counts.values())) == {"r": 337, "c": 461, "f": 405}


def test_an_image_counts_once_for_a_category_however_many_objects():
    counts = category_image_counts([image(0, 0, 2), image(2), image()], 4)
    assert counts.tolist() == [1, 0, 2, 0]


def test_a_category_outside_the_classes_is_reported():
    with pytest.raises(ValueError, match=r"in \[0, 3\] for 4 classes, got 4 in a.jpg"):
        category_image_counts([image(4)], 4)
