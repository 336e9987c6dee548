import warnings
from unittest import mock

import numpy as np
import pytest
import torch.distributed as dist

from d2_seesaw.data.rle import MaskColumns
from d2_seesaw.evaluation.predictions import gather
from d2_seesaw.evaluation.predictions.detections import Detections, concatenate
from d2_seesaw.evaluation.predictions.gather import (
    all_gather_json,
    gather_columns,
    gather_detections,
)
from tests.support.memory import MEGABYTE, added_at_peak
from tests.support.ranks import no_objects_between_ranks, run_on_ranks

WORLD = 2


def columns_of(case, rank):
    rng = np.random.default_rng(rank)
    if case == "numbers":
        n = (3, 5)[rank]
        return {"ids": rng.integers(0, 9, n), "boxes": rng.random((n, 4), np.float32)}
    if case == "wider types":
        return {"ids": np.array([["a", "b"], ["long name"]][rank]), "x": rng.random(2 - rank)}
    if case == "other wider types":
        return {"ids": np.array([["long name"], ["a", "b"]][rank]), "x": np.ones(1 + rank, "f4")}
    if case == "nothing here":
        return {} if rank == 0 else {"ids": np.arange(4)}
    if case == "nothing there":
        return {} if rank == 1 else {"ids": np.arange(4)}
    if case == "nothing at all":
        return {}
    if case == "empty columns":
        return {"ids": np.arange(2 * rank), "masks": np.zeros((2 * rank, 0), np.uint8)}
    # Neither contiguous nor writable.
    columns = {"x": rng.random((6, 4))[::2, 1:], "text": np.frombuffer(b"abc", np.uint8)}
    columns["x"].flags.writeable = False
    return columns


CASES = [
    *("numbers", "wider types", "other wider types", "nothing here", "nothing there"),
    *("nothing at all", "empty columns", "views"),
]


def detections_of(rank):
    """Return detections of a rank; only the second rank has scores of masks."""
    rles = [{"size": [9, 9], "counts": b"x" * n} for n in (2, 5)]
    return Detections(
        np.array([1, 2]) + rank,
        np.array([5, 6]),
        np.array([0.25, 0.5]),
        boxes=np.ones((2, 4)) * rank,
        mask_scores=np.array([0.75, 1]) if rank else None,
        masks=MaskColumns.from_rles(rles),
    )


def on_rank():
    rank, world_size = dist.get_rank(), dist.get_world_size()
    with no_objects_between_ranks(), warnings.catch_warnings():
        warnings.simplefilter("error")
        report = {case: gather_columns(columns_of(case, rank)) for case in CASES}
        with mock.patch.object(gather, "_BYTES_PER_MESSAGE", 7):
            report["numbers in parts"] = gather_columns(columns_of("numbers", rank))
        report["detections"] = list(gather_detections(detections_of(rank)).results())
        report["json"] = all_gather_json({"rank": "ä" * (1 + 1000 * rank), "of": (world_size,)})
    large = {"x": np.full(64 * MEGABYTE, rank, np.uint8)}
    gathered, report["added"] = added_at_peak(lambda: gather_columns(large))
    report["sum"] = int(gathered["x"].sum()) if gathered else 0
    return report


@pytest.fixture(scope="module")
def reports():
    return run_on_ranks(on_rank, world_size=WORLD)


@pytest.mark.dist
@pytest.mark.parametrize("case", [*CASES, "numbers in parts"])
def test_columns_of_all_ranks_are_joined_on_the_first(case, reports):
    given = [columns_of(case.removesuffix(" in parts"), rank) for rank in range(WORLD)]
    parts = [part for part in given if part]
    expected = concatenate(parts) if parts else {}
    gathered = reports[0][case]
    assert list(gathered) == list(expected)
    for name, column in expected.items():
        assert gathered[name].dtype == column.dtype
        np.testing.assert_array_equal(gathered[name], column)
    assert reports[1][case] == {}


@pytest.mark.dist
def test_detections_without_mask_scores_get_the_scores_of_the_boxes(reports):
    parts = [detections_of(0), detections_of(1)]
    assert reports[0]["detections"] == list(Detections.concatenate(parts).results())
    assert [r["mask_score"] for r in reports[0]["detections"]] == [0.25, 0.5, 0.75, 1]
    assert reports[1]["detections"] == []


@pytest.mark.dist
def test_json_values_are_gathered_on_all_ranks(reports):
    expected = [{"rank": "ä", "of": [2]}, {"rank": "ä" * 1001, "of": [2]}]
    assert [report["json"] for report in reports] == [expected] * 2


@pytest.mark.dist
def test_gathering_needs_little_memory_beyond_the_result(reports):
    assert reports[0]["sum"] == 64 * MEGABYTE
    # The result on the first rank takes 128 MB, without the buffers of gloo.
    assert reports[0]["added"] < 150 * MEGABYTE
    assert reports[1]["added"] < 20 * MEGABYTE


def test_a_single_process_keeps_its_own_data():
    columns = columns_of("numbers", 0)
    assert gather_columns(columns) == columns
    assert all_gather_json([1, (2,)]) == [[1, [2]]]
    results = list(detections_of(1).results())
    assert list(gather_detections(detections_of(1)).results()) == results
