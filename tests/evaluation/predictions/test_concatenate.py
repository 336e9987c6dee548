import numpy as np

from d2_seesaw.evaluation.predictions.detections import concatenate, empty_column, layouts_of
from tests.support.memory import MEGABYTE, added_at_peak, mapped_ones


def parts():
    return [
        {"ids": np.array(["a", "b"]), "boxes": np.arange(8.0).reshape(2, 4)},
        {"ids": np.zeros(0, "U1"), "boxes": np.zeros((0, 4), np.float32)},
        {"ids": np.array(["long"]), "boxes": np.ones((1, 4), np.float32)},
    ]


def test_equals_numpys_concatenation_in_values_and_types():
    joined = concatenate(parts())
    for name in ("ids", "boxes"):
        expected = np.concatenate([part[name] for part in parts()])
        assert joined[name].dtype == expected.dtype
        np.testing.assert_array_equal(joined[name], expected)


def test_the_parts_do_not_live_beside_the_result():
    size = 40 * MEGABYTE
    given = [{"a": mapped_ones(size)} for _ in range(4)]
    joined, added = added_at_peak(lambda: concatenate(given))
    assert joined["a"].sum() == 4 * size
    assert given == [{}] * 4
    assert added < 1.5 * size


def test_layouts_give_a_column_of_the_common_type():
    layouts = [layouts_of(part)["boxes"] for part in parts()]
    assert layouts == [("<f8", (2, 4)), ("<f4", (0, 4)), ("<f4", (1, 4))]
    column = empty_column([(np.dtype(dtype), shape) for dtype, shape in layouts])
    assert (column.dtype, column.shape) == (np.dtype("f8"), (3, 4))
