"""Formats of boxes in large files, which are judged by a sample first."""

import copy

import numpy as np
import pytest

from d2_seesaw.data.annotations import box_formats, mask_geometry
from d2_seesaw.data.annotations.box_formats import SAMPLED_BLOCKS, box_format, sampled_blocks
from d2_seesaw.data.annotations.mask_geometry import ROWS_AT_ONCE
from tests.data import own_data
from tests.data.own_data import H, W

NUMBER = 200  # annotations, in 50 blocks of which 6 are sampled
LAYOUTS = {
    "x1, y1, x2, y2": lambda x, y, w, h: (x, y, x + w, y + h),
    "center x, center y, width, height": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
    "x, y, width, height, as shares of the image from 0 to 1": lambda x, y, w, h: (
        *(x / W, y / H),
        *(w / W, h / H),
    ),
    "y, x, height, width": lambda x, y, w, h: (y, x, h, w),
    "the file's": lambda *box: box,
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    for module in (box_formats, mask_geometry):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(box_formats, "SAMPLED_BLOCKS", 6)


def squares():
    """Return a file with squares at random places in the lower right of the images."""
    rng = np.random.default_rng(0)
    data = own_data.content()
    images = [image["id"] for image in data["images"]]
    data["annotations"] = []
    for i in range(NUMBER):
        side = int(rng.integers(4, 9))
        x, y = int(rng.integers(5, W - side)), int(rng.integers(5, H - side))
        entry = own_data.annotation(i, images[i % 4], own_data.IDS[i % 3], x, y, side)
        data["annotations"].append(entry)
    return data


CHOICES = {
    "all": lambda i: True,
    "three of five": lambda i: i % 5 < 3,
    "the first three fifths": lambda i: i < 0.6 * NUMBER,
    "the last quarter": lambda i: i >= 0.75 * NUMBER,
}


@pytest.mark.parametrize("masks", ["all", "none", "few", "encoded"])
@pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES.keys())
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_sample_hides_nothing_that_all_boxes_show(layout, chosen, masks, monkeypatch):
    data = squares()
    for i, entry in enumerate(data["annotations"]):
        side = entry["bbox"][2]
        x, y, *_ = entry["bbox"]
        if masks == "encoded":
            entry["segmentation"] = own_data.compressed(own_data.mask_of(int(x), int(y), int(side)))
        elif masks == "none" or (masks == "few" and not 101 <= i <= 109):
            del entry["segmentation"]
        if chosen(i):
            entry["bbox"] = [float(v) for v in layout(*entry["bbox"])]
    table = own_data.table(data)
    sampled = box_format(table), box_format(table, mask_geometry.mask_geometry(table))
    monkeypatch.setattr(box_formats, "SAMPLED_BLOCKS", 10**6)
    expected = box_format(table)
    for found in sampled:
        assert (found is None) == (expected is None)
        if found is not None:
            assert (found.name, found.judged) == (expected.name, expected.judged)
            assert found.fitting.tolist() == expected.fitting.tolist()


def test_these_formats_are_found_in_the_whole_file():
    for name, layout in list(LAYOUTS.items())[:-1]:
        data = squares()
        for entry in data["annotations"]:
            entry["bbox"] = [float(v) for v in layout(*entry["bbox"])]
        assert box_format(own_data.table(data)).name == name


def test_masks_of_a_large_file_without_another_format_are_read_in_part(monkeypatch):
    read = []
    compute = mask_geometry.mask_geometry
    monkeypatch.setattr(
        box_formats, "mask_geometry", lambda table, *b: read.append(b) or compute(table, *b)
    )
    assert box_format(own_data.table(squares())) is None
    (((blocks,)),) = read
    assert blocks == [0, 8, 16, 25, 33, 41]


def test_blocks_of_the_geometry_equal_those_of_all_masks():
    data = squares()
    data["annotations"][9]["segmentation"] = own_data.compressed(own_data.mask_of(3, 4, 5))
    table = own_data.table(data)
    whole = mask_geometry.mask_geometry(table)
    for blocks, rows in (([2, 49], [8, 9, 10, 11, 196, 197, 198, 199]), ([], [])):
        some = mask_geometry.mask_geometry(table, blocks)
        others = np.delete(np.arange(NUMBER), rows)
        np.testing.assert_array_equal(some.extent[rows], whole.extent[rows])
        np.testing.assert_array_equal(some.area[rows], whole.area[rows])
        assert np.isnan(some.extent[others]).all()
        assert np.isnan(some.area[others]).all()


def test_a_sample_is_spread_evenly_over_the_rows_to_represent(monkeypatch):
    monkeypatch.undo()
    assert SAMPLED_BLOCKS * ROWS_AT_ONCE == 98_304
    lvis = np.ones(1_270_141, bool)
    blocks = sampled_blocks(lvis)
    assert len(blocks) == SAMPLED_BLOCKS
    assert set(np.diff([*blocks, -(-len(lvis) // ROWS_AT_ONCE)])) == {12, 13}
    assert sampled_blocks(lvis[:98_304]) == []  # judged whole
    few = np.zeros(1_270_141, bool)
    few[[5, 1_000_000]] = True
    assert sampled_blocks(few) == [0, 1_000_000 // ROWS_AT_ONCE]


def test_inputs_are_not_modified():
    table = own_data.table(squares())
    before = copy.deepcopy(table.box)
    box_format(table)
    np.testing.assert_array_equal(table.box, before)
