import numpy as np
import pytest

from d2_seesaw.data.quickstart import CLASSES
from d2_seesaw.synthetic.street_objects import PAINT_ON_GROUND, PAINT_ON_POLE, Painter, paint_pole

UNTOUCHED = 99
GRAY = np.full(3, 128, np.float32)


def canvas(seed=0, shape=(128, 192)):
    painter = Painter(np.random.default_rng(seed), shape)
    painter.picture[:] = -1
    painter.labels[:] = UNTOUCHED
    return painter


OBJECTS = {
    **{name: (paint, (96, 100)) for name, paint in PAINT_ON_GROUND.items()},
    **{name: (paint, (96, 40)) for name, paint in PAINT_ON_POLE.items()},
    "pole": (lambda painter, x, base: paint_pole(painter, x, base, base - 40), (96, 100)),
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("seed", range(5))
def test_labels_match_the_painted_pixels_exactly(name, seed):
    painter = canvas(seed)
    paint, place = OBJECTS[name]
    paint(painter, *place)
    painted = (painter.picture >= 0).all(axis=2)
    np.testing.assert_array_equal(painter.labels == CLASSES.index(name), painted)
    np.testing.assert_array_equal(painter.labels == UNTOUCHED, ~painted)
    assert painted.sum() > 15


@pytest.mark.parametrize("name", PAINT_ON_GROUND)
def test_objects_stand_on_their_base(name):
    painter = canvas()
    PAINT_ON_GROUND[name](painter, 96, 100)
    rows = np.flatnonzero((painter.labels != UNTOUCHED).any(axis=1))
    assert rows.max() in (98, 99, 100)


def test_a_shape_covers_its_pixels_and_at_most_their_neighbors():
    y, x = np.mgrid[:128, :192] + 0.5  # centers of pixels
    painter = canvas()
    painter.box(10, 20, 15, 22, 3, GRAY)
    covered = painter.labels == 3
    assert covered[(x > 10) & (x < 15) & (y > 20) & (y < 22)].all()
    assert not covered[(x < 9) | (x > 16) | (y < 19) | (y > 23)].any()


def test_a_larger_scene_shows_the_same_objects_larger():
    areas = []
    for height in (128, 256):
        painter = canvas(shape=(height, height * 3 // 2))
        painter.ellipse((96, 64), (30, 20), 1, GRAY)
        areas.append((painter.labels == 1).sum())
        assert painter.units_wide == 192
    assert areas[0] == pytest.approx(np.pi * 30 * 20, rel=0.06)
    assert areas[1] == pytest.approx(4 * areas[0], rel=0.06)


@pytest.mark.parametrize(
    "center", [(90, 60), (-3, 50), (195, 50), (100, -2), (100, 130), (-50, 50), (0, 300)]
)
def test_shapes_are_clipped_at_the_scene_border(center):
    painter = canvas()
    painter.ellipse(center, (10, 10), 1, GRAY)
    y, x = np.mgrid[:128, :192] + 0.5
    distance = np.hypot(x - center[0], y - center[1])
    covered = painter.labels == 1
    assert covered[distance < 9.8].all()  # the outline is a polygon
    assert not covered[distance > 11].any()


def test_taxis_differ_from_cars_only_in_a_detail():
    seeds = range(20)
    shapes = {"car": [], "taxi": []}
    for name, pictures in shapes.items():
        for seed in seeds:
            painter = canvas(seed)
            PAINT_ON_GROUND[name](painter, 96, 100)
            pictures.append(painter.picture)
    for car, taxi in zip(shapes["car"], shapes["taxi"], strict=True):
        differing = (car != taxi).any(axis=2).sum()
        assert 0.05 < differing / (taxi >= 0).all(axis=2).sum() < 0.5


def test_grain_varies_a_color_about_its_mean():
    painter = canvas()
    painter.box(10, 10, 110, 110, 0, GRAY, grain=0.2)
    inside = painter.picture[12:108, 12:108]
    assert inside.std() > 3
    assert np.abs(inside / 128 - 1).max() <= 0.2 + 1e-6
