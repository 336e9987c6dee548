import itertools

import numpy as np
import pytest

from d2_seesaw.data.quickstart import CLASSES
from d2_seesaw.synthetic.street_scenes import EVERYWHERE, IGNORE_LABEL, draw_scene

THINGS = [name for name in CLASSES if name not in EVERYWHERE]


def shown_in(labels):
    return {CLASSES[c] for c in np.unique(labels) if c != IGNORE_LABEL}


def drawn(seed, shown, shape=(128, 192)):
    return draw_scene(np.random.default_rng(seed), shown, shape)


@pytest.mark.parametrize("shape", [(128, 192), (96, 96), (64, 160), (256, 300)])
def test_images_and_labels_have_the_requested_size(shape):
    picture, labels = drawn(0, THINGS, shape)
    assert picture.shape == (*shape, 3)
    assert labels.shape == shape
    assert picture.dtype == labels.dtype == np.uint8


@pytest.mark.parametrize("shown", [*itertools.combinations(THINGS, 1), (), tuple(THINGS)])
def test_a_scene_shows_only_the_requested_objects(shown):
    expected = {*shown, *EVERYWHERE} | ({"pole"} if {"sign", "light"} & set(shown) else set())
    for seed in range(12):
        assert shown_in(drawn(seed, shown)[1]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("rare", ["sign", "light", "taxi", "animal"])
def test_rare_classes_are_never_hidden(rare):
    for seed in range(40):
        _, labels = drawn(seed, THINGS)
        assert (labels == CLASSES.index(rare)).sum() >= 20


def test_some_scenes_have_ignored_borders():
    maps = [drawn(seed, ["car"])[1] == IGNORE_LABEL for seed in range(60)]
    with_borders = [m for m in maps if m.any()]
    assert 15 < len(with_borders) < 55
    for ignored in with_borders:
        assert ignored.mean() < 0.15
        inside = ignored[: -10 - 1, 5 + 1 : -5 - 1]  # not covered by the lens or the hood
        assert not inside.any()
    assert any(m[:100, 0].all() for m in maps)
    assert any(m[-1].any() and not m[:100].any() for m in maps)


def test_equal_seeds_give_equal_scenes_and_others_do_not():
    for first, second in zip(drawn(1, THINGS), drawn(1, THINGS), strict=True):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(drawn(1, THINGS), drawn(2, THINGS), strict=True):
        assert (first != second).mean() > 0.05


def test_sky_is_above_the_sidewalk_and_that_above_the_road():
    for seed in range(10):
        _, labels = drawn(seed, ())
        rows = {
            name: np.nonzero(labels == CLASSES.index(name))[0]
            for name in ("sky", "building", "sidewalk", "road")
        }
        assert rows["sky"].max() < rows["sidewalk"].min()
        assert rows["building"].max() < rows["sidewalk"].min()
        assert rows["sidewalk"].max() < rows["road"].min()


def test_colors_only_partly_separate_the_classes():
    means = {name: [] for name in CLASSES}
    for seed in range(30):
        picture, labels = drawn(seed, THINGS)
        for name in CLASSES:
            means[name].append(picture[labels == CLASSES.index(name)].mean(axis=0))
    center = {name: np.mean(values, axis=0) for name, values in means.items()}

    def distance(first, second):
        spread = np.std(means[first] + means[second], axis=0).mean()
        return np.linalg.norm(center[first] - center[second]) / spread

    assert distance("sky", "tree") > 2
    assert distance("car", "taxi") < distance("sky", "tree") / 2
