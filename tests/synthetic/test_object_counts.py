"""Numbers of images with no or too few objects, their reasons and remedies."""

import json

import pytest

from d2_seesaw.synthetic.cutouts.spec import CUTOUT_PROFILES
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.object_counts import (
    ObjectCounts,
    ObjectSummary,
    count_objects,
    remedies,
)


def test_images_are_counted_by_planned_and_drawn_objects():
    planned = [[], [0, 0, 1], [0, 1], [1, 2, 2], [0]]
    counts = count_objects(planned, drawn=[0, 3, 0, 1, 1], lowest=2)
    assert counts == ObjectCounts(
        images=5, without_object=2, below_lowest=4, without_place=2, appearances=7
    )


def test_each_reason_has_a_line_and_full_images_have_none():
    full = ObjectCounts(9, 0, 0, 0, 20)
    assert ObjectSummary(2, {"train": full, "val": full}, ["more categories"]).lines() == [
        "training: 0 of 9 images have no object, 0 have fewer than 2",
        "validation: 0 of 9 images have no object, 0 have fewer than 2",
    ]
    splits = {"train": ObjectCounts(9, 0, 3, 3, 20), "val": ObjectCounts(9, 4, 5, 1, 5)}
    assert ObjectSummary(2, splits, ["more categories"]).lines()[2:] == [
        "validation: the plan has 5 appearances of categories in 9 images; to fill them, use more "
        "objects per image",
        "4 of these images had no place for all of their objects; use smaller or fewer objects",
    ]


@pytest.mark.parametrize(
    ("profile", "num_images", "found"),
    [
        ("cutouts", 1200, ["the profile demo"]),
        ("demo", 1200, ["fewer training images"]),
        ("lvis_v1", 9600, ["the profile cutouts", "the profile demo"]),
    ],
)
def test_only_changes_that_give_more_appearances_per_image_are_named(profile, num_images, found):
    """Compare with appearances per image of 5 categories: 0.36, 0.64 (in half: 0.78) and 0.02."""
    named = remedies(CUTOUT_PROFILES[profile], CUTOUT_PROFILES, 5, num_images, highest=5)
    assert named == ["more categories", *found]


def test_a_profile_without_room_in_the_images_is_not_named():
    """10 categories in 100 images appear 2.77 times per image with the profile of the demo."""
    for highest in (2, 3):
        named = remedies(CUTOUT_PROFILES["cutouts"], CUTOUT_PROFILES, 10, 100, highest)
        assert ("the profile demo" in named) == (highest == 3)


def test_glyphs_say_how_many_images_are_empty(tmp_path):
    spec = LongTailSpec(num_categories=2, num_train_images=30, num_val_images=5, write_images=False)
    made = generate_longtail_dataset(tmp_path, spec, processes=1, progress=False)
    shown = {a["image_id"] for a in json.loads(made.train_json.read_text())["annotations"]}
    assert len(shown) < 30
    assert f"training: {30 - len(shown)} of 30 images have no object" in made.objects[0]
    assert f"no more than {spec.profile.image_counts(2, 30).sum()} appearances" in made.objects[2]
