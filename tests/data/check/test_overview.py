import numpy as np
import pytest

from d2_seesaw.data import RepeatFactorSampling
from d2_seesaw.data.check import overview as overview_module
from d2_seesaw.data.check.overview import SIZE_BOUNDS, dataset_overview, threshold_effects
from tests.data import own_data
from tests.data.own_data import annotation


def overview_of(data, **options):
    return dataset_overview(own_data.table(data), **options)


def random_data():
    """Generate 30 images, some of them empty or with crowds only, and long-tailed categories."""
    rng = np.random.default_rng(1)
    data = own_data.content()
    data["images"] = [
        {"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in range(30)
    ]
    data["annotations"] = [
        annotation(i, int(image), int(category))
        for i, (image, category) in enumerate(
            zip(
                rng.integers(0, 24, 60),
                rng.choice(own_data.IDS, 60, p=(0.8, 0.15, 0.05)),
                strict=True,
            )
        )
    ]
    for i in range(24, 27):
        data["annotations"].append(annotation(100 + i, i, 40) | {"iscrowd": 1})
    for i in range(5):  # The sampler counts crowds in images that also have objects.
        data["annotations"].append(annotation(200 + i, i, 1000) | {"iscrowd": 1})
    return data


@pytest.mark.parametrize("threshold", [0.001, 0.3, 1.0])
def test_repeat_factors_equal_those_of_the_sampler(threshold):
    columns = own_data.table(random_data())
    overview = dataset_overview(columns, threshold=threshold)
    records = [
        record
        for record in columns.records(str)
        if any(not a.get("iscrowd") for a in record["annotations"])
    ]
    factors = RepeatFactorSampling(threshold).repeat_factors(records)
    assert overview.trained_images == len(records)
    assert overview.epoch == pytest.approx(float(factors.double().sum()))
    assert overview.repeated_images == int((factors > 1).sum())


def test_categories_have_images_objects_median_size_and_repeat_factor():
    kerb, drain, hydrant = overview_of(own_data.content(), threshold=0.5).categories
    assert (kerb.category_id, kerb.images, kerb.objects, kerb.median_size) == (7, 3, 4, 8)
    assert (drain.images, drain.objects, drain.median_size) == (2, 2, (12 + 5) / 2)
    assert hydrant.repeat_factor == pytest.approx(2**0.5)
    assert (kerb.repeat_factor, drain.repeat_factor) == (1, 1)


def test_groups_follow_the_training_images_with_lvis_bounds():
    overview = overview_of(own_data.content(), train_images={7: 101, 40: 11, 1000: 10})
    groups = {group: [c.name for c in found] for group, found in overview.groups().items()}
    assert groups == {"r": ["hydrant"], "c": ["drain"], "f": ["kerb"]}
    assert [c.group for c in overview_of(own_data.content()).categories] == ["r", "r", "r"]


def test_training_images_default_to_those_of_the_file_and_to_0_per_category():
    for given, expected in (({7: 101}, [101, 0, 0]), ({}, [3, 2, 1])):
        overview = overview_of(own_data.content(), train_images=given)
        assert [c.train_images for c in overview.categories] == expected


def test_the_median_size_counts_boxes_without_area_as_0():
    data = own_data.content()
    boxes = ([0, 0, 2, 2], [0, 0, 9, 4], [0, 0, 30, 30], [9, 9, -3, 5])
    data["annotations"] = [annotation(i, 3, 7) | {"bbox": box} for i, box in enumerate(boxes)]
    overview = overview_of(data)
    assert overview.categories[0].median_size == 6  # the median of 2, 6 and 30
    assert sum(overview.object_sizes) == 3


def test_object_sizes_are_counted_from_each_bound_to_the_next():
    data = own_data.content()
    sides = (7.9, 8, 15, 16, 2000)
    data["annotations"] = [
        annotation(i, 3, 7) | {"bbox": [0, 0, s, s]} for i, s in enumerate(sides)
    ]
    sizes = overview_of(data).object_sizes
    assert len(sizes) == len(SIZE_BOUNDS) + 1
    assert sizes == [1, 2, 1, 0, 0, 0, 0, 0, 1]


def test_a_dataset_without_annotations_has_an_overview():
    data = own_data.content()
    data["annotations"] = []
    overview = overview_of(data)
    assert (overview.objects, overview.trained_images, overview.epoch) == (0, 0, 0)
    assert overview.to_json()["groups"] == {"r": 3, "c": 0, "f": 0}


@pytest.mark.parametrize("threshold", [2, 0, -1])
def test_a_threshold_out_of_range_is_reported(threshold):
    with pytest.raises(ValueError, match=rf"in \(0, 1\], got {threshold}"):
        overview_of(own_data.content(), threshold=threshold)


def test_thresholds_are_compared_as_the_sampler_repeats(monkeypatch):
    monkeypatch.setattr(overview_module, "THRESHOLDS", (0.01, 0.3, 0.9))
    columns = own_data.table(random_data())
    records = [
        r for r in columns.records(str) if any(not a.get("iscrowd") for a in r["annotations"])
    ]
    effects = overview_of(random_data()).thresholds
    for effect in effects:
        factors = RepeatFactorSampling(effect.threshold).repeat_factors(records)
        assert effect.images == len(records)
        assert effect.repeated_images == int((factors > 1).sum())
        assert effect.mean_factor == pytest.approx(float(factors.double().mean()))
    assert effects[-1].threshold == 0.9
    assert effects[-1].repeated_images > 0


def test_annotations_of_unknown_images_and_categories_change_no_threshold():
    data, broken = random_data(), random_data()
    broken["annotations"] += [annotation(900, 3, 8), annotation(901, 999, 7), annotation(902, 4, 7)]
    broken["annotations"][-1]["bbox"] = None
    data["annotations"].append(annotation(902, 4, 8))
    effects = threshold_effects(own_data.parsed(broken, keep_all=True).table)
    assert effects == threshold_effects(own_data.table(data))


def test_without_images_there_is_nothing_to_repeat():
    data = own_data.content()
    data["images"] = []
    effects = threshold_effects(own_data.parsed(data, keep_all=True).table)
    assert {(e.images, e.repeated_images, e.mean_factor) for e in effects} == {(0, 0, 1.0)}
