"""Compiled drawing of polygons against pycocotools, to the pixel."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from d2_seesaw.data.rle import run_lengths

compiled = pytest.importorskip("d2_seesaw.data.rle.compiled", exc_type=ImportError)
pytestmark = pytest.mark.skipif(not compiled.POLYGONS_ARE_EXACT, reason="of another processor")

whole, halves, fifths = (
    st.integers(-40, 80).map(lambda n, d=divisor: n / d) for divisor in (1, 2, 5)
)
tenths = st.integers(-100, 400).map(lambda n: n / 10)
any_number = st.floats(-3000, 3000)
polygons = st.one_of(
    st.lists(st.tuples(number, number), min_size=3, max_size=12).map(np.ravel)
    for number in (whole, halves, fifths, tenths, any_number, whole | any_number)
)
image_sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def drawn(objects, sizes):
    """Draw objects, which are lists of polygons; return the bounds on their runs and the ends."""
    polygons = [np.asarray(polygon, float) for polygons in objects for polygon in polygons]
    coordinates = np.concatenate([np.zeros(0), *polygons])
    offsets = np.cumsum([0, *map(len, polygons)])
    last = np.cumsum([0, *map(len, objects)])
    given_objects = coordinates, offsets, last[:-1], last[1:], np.array(sizes)
    most = compiled.most_runs(*given_objects)
    places = np.cumsum([0, *most])
    written = np.full(places[-1] + 1, -1)
    numbers = compiled.draw(*given_objects, places, written)
    assert written[-1] == -1
    assert (numbers <= most).all()
    ends = [written[a : a + n].tolist() for a, n in zip(places, numbers, strict=False)]
    return most.tolist(), ends


def expected(polygons, size):
    parts = coco_mask.frPyObjects([list(polygon) for polygon in polygons], *size)
    return np.cumsum(run_lengths(coco_mask.merge(parts)["counts"])).tolist()


@settings(max_examples=150, deadline=None)
@given(
    objects=st.lists(st.lists(polygons, min_size=1, max_size=3), min_size=1, max_size=4),
    size=image_sizes,
)
@example(objects=[[[0, 0, 9, 0, 9, 9, 0, 9]] * 2, [[9, 9] * 3]], size=(9, 9))
@example(objects=[[[2, 1, 2, 1, 5, 7]], [[0.5, 0, 0.5, 9, 0.5, 3]]], size=(10, 10))
def test_objects_have_the_runs_of_pycocotools(objects, size):
    _, ends = drawn(objects, [size] * len(objects))
    assert ends == [expected(polygons, size) for polygons in objects]


@pytest.mark.parametrize("seed", range(4))
def test_polygons_of_many_shapes_and_images_have_the_runs_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    objects, sizes = [], []
    for _ in range(500):
        size = rng.integers(1, 200, 2)
        points = rng.integers(3, rng.choice([5, 12, 100]), rng.integers(1, 4))
        spread = rng.choice([0.5, 5, 60, 1000])
        center = rng.uniform(-0.3, 1.3, 2) * size[::-1]
        digits = int(rng.integers(0, 4))
        parts = [rng.normal(center, spread, (n, 2)).round(digits).ravel() for n in points]
        objects.append(parts)
        sizes.append(size.tolist())
    _, ends = drawn(objects, sizes)
    assert ends == [expected(*one) for one in zip(objects, sizes, strict=True)]
    assert sum(len(e) > 2 for e in ends) > 200


def test_the_largest_coordinates_that_are_drawn_have_the_runs_of_pycocotools():
    far = 2.0**18
    rng = np.random.default_rng(0)
    objects = [[rng.uniform(-far, far, 6)] for _ in range(20)]
    sizes = [(100, 150)] * 19 + [(2, 2**18 + 10)]
    objects[-1] = [[0, -far, far, far, far / 2, 1, -far, far]]
    most, ends = drawn(objects, sizes)
    assert min(most) > 0
    assert ends == [expected(*one) for one in zip(objects, sizes, strict=True)]
    beyond = [[[0, 0, 9, 0, sign * (far + 1), 5]] for sign in (-1, 1)]
    assert drawn(beyond, [(10, 10)] * 2) == ([0, 0], [[], []])


@pytest.mark.parametrize(
    ("polygons", "size"),
    [
        ([], (9, 9)),
        ([[1, 1, 3, 3]], (9, 9)),  # pycocotools reads all polygons of such an object as boxes
        ([[1, 1, 3, 3], [1, 1, 9, 1, 5, 5]], (9, 9)),
        ([[1, 1, 9, 1, 5, 5], []], (9, 9)),
        ([[1, 1, 9, 1, np.nan, 5]], (9, 9)),
        ([[1, 1, 9, 1, 5, np.inf]], (9, 9)),
        ([[1, 1, 9, 1, 5, 5]], (0, 9)),
        ([[1, 1, 9, 1, 5, 5]], (9, 0)),
        ([[1, 1, 9, 1, 5, 5]], (2**16, 2**15)),
    ],
)
def test_objects_that_pycocotools_must_draw_are_left(polygons, size):
    triangle = [[1, 1, 9, 1, 5, 5]]
    most, ends = drawn([triangle, polygons, triangle], [(9, 9), size, (9, 9)])
    assert most[1] == 0
    assert ends == [expected(triangle, (9, 9)), [], expected(triangle, (9, 9))]
