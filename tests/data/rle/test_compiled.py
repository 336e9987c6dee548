"""Compiled functions against pycocotools, on encodings that are valid and on odd ones."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from d2_seesaw.data.rle import MaskColumns, kernels

compiled = pytest.importorskip("d2_seesaw.data.rle.compiled", exc_type=ImportError)


def random_masks(rng, number, size):
    """Encode noise, rectangles, empty and full masks, and runs without length in between."""
    masks = []
    for i in range(number):
        kind = i % 5
        pixels = np.zeros(size, np.uint8, order="F")
        if kind == 0:
            pixels[:] = rng.random(size) < rng.random()
        elif kind == 1:
            y, x = rng.integers(0, size)
            pixels[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = 1
        elif kind == 2:
            pixels[:] = rng.integers(2)
        if kind < 3:
            masks.append(coco_mask.encode(pixels))
            continue
        runs = rng.multinomial(size[0] * size[1], np.full(9, 1 / 9)).tolist()
        if kind == 4:  # a scan by pycocotools ends early where both masks have such runs
            runs[3:3] = [0, 0]
        masks.append(coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size))
    return masks


def columns_of(masks):
    columns = MaskColumns.from_rles(masks)
    return columns, columns.bytes_of(np.arange(len(masks)))


def ends_of(masks):
    """Return the ends of the runs of masks, first places, numbers, and sizes."""
    columns, (counts, starts, ends) = columns_of(masks)
    written = np.full(len(counts) + 1, -1)
    numbers = compiled.ends_of_runs(counts, starts, ends, starts, written)
    assert written[-1] == -1
    return written, starts, numbers, columns.sizes


@pytest.mark.parametrize("seed", range(5))
def test_areas_and_ious_equal_those_of_pycocotools_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 50, 2).tolist())
    found, true = random_masks(rng, 25, size), random_masks(rng, 10, size)
    (own, own_bytes), other = columns_of(found), ends_of(true)
    np.testing.assert_array_equal(compiled.areas(*own_bytes), coco_mask.area(found))
    np.testing.assert_array_equal(compiled.areas_of_ends(*other[:3]), coco_mask.area(true))
    places = np.tile(np.arange(10), 25)
    ious = compiled.ious(*own_bytes, own.sizes, np.full(25, 10), *other, places)
    expected = coco_mask.iou(found, true, [0] * 10)
    np.testing.assert_array_equal(ious.reshape(25, 10), expected)


def test_masks_of_other_sizes_have_the_iou_of_pycocotools():
    found, true = ([coco_mask.encode(np.ones(s, np.uint8, order="F"))] for s in ((3, 4), (4, 3)))
    (own, own_bytes), other = columns_of(found), ends_of(true)
    single = np.array([1]), *other, np.array([0])
    ious = compiled.ious(*own_bytes, own.sizes, *single)
    assert ious.tolist() == coco_mask.iou(found, true, [0]).ravel().tolist() == [-1]


def test_no_masks_have_no_areas():
    _, none = columns_of([])
    assert compiled.areas(*none).shape == (0,)


def test_few_masks_do_not_load_the_functions(monkeypatch):
    loaded = []
    monkeypatch.delitem(kernels.sys.modules, kernels._NAME)
    monkeypatch.setattr(kernels.importlib, "import_module", loaded.append)
    assert kernels.compiled_functions() is None
    assert kernels.compiled_functions(kernels.LEAST_MASKS - 1) is None
    assert not loaded
    kernels.compiled_functions(kernels.LEAST_MASKS)
    assert loaded == [kernels._NAME]


@pytest.mark.parametrize(
    ("error", "warnings"),
    [(ModuleNotFoundError("No module named 'numba'"), 0), (ImportError("Numba needs NumPy 1"), 1)],
)
def test_a_numba_that_is_missing_or_fails_is_tried_once(error, warnings, monkeypatch, caplog):
    tried = []

    def fail(name):
        tried.append(name)
        raise error

    monkeypatch.delitem(kernels.sys.modules, kernels._NAME)
    monkeypatch.setattr(kernels.importlib, "import_module", fail)
    monkeypatch.setattr(kernels, "_unusable", [])
    for _ in range(2):
        assert kernels.compiled_functions(kernels.LEAST_MASKS) is None
    assert len(tried) == 1
    assert len(caplog.records) == warnings
