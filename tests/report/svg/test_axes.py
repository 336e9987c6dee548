import itertools
import math

import pytest

from d2_seesaw.report.svg.axes import linear_axis, log_axis, round_step


@pytest.mark.parametrize(
    ("rough", "step"), [(1, 1), (1.01, 2), (2.5, 5), (6, 10), (0.03, 0.05), (0.2, 0.2), (101, 200)]
)
def test_steps_are_1_2_or_5_times_a_power_of_ten(rough, step):
    assert round_step(rough) == pytest.approx(step)


def test_a_linear_axis_runs_from_one_round_number_over_zero_to_another():
    axis = linear_axis([-12.0, 31.0, math.nan])
    assert [written for _, written in axis.ticks] == ["-20", "-10", "0", "10", "20", "30", "40"]
    assert (axis.share(-20), axis.share(40)) == (0, 1)
    assert axis.share(10) == pytest.approx(0.5)
    assert linear_axis([30.0]).low == 0
    assert linear_axis([-30.0]).high == 0


def test_decimals_are_those_of_the_step():
    assert [written for _, written in linear_axis([0.9]).ticks][:3] == ["0.0", "0.2", "0.4"]
    assert [written for _, written in linear_axis([0.09]).ticks][:2] == ["0.00", "0.02"]
    assert linear_axis([12_000.0]).ticks[-1] == (15_000, "15,000")


def test_an_extreme_that_is_a_tick_ends_the_axis():
    axis = linear_axis([0.3, -0.1])  # neither is a multiple of 0.1 in binary
    assert [written for _, written in axis.ticks] == ["-0.1", "0.0", "0.1", "0.2", "0.3"]
    for end in (0.14, -0.14):  # 0.14 / 0.02 is above 7
        written = [written for _, written in linear_axis([end], intervals=7).ticks]
        assert f"{end}" in (written[0], written[-1])


@pytest.mark.parametrize("values", [[], [math.nan], [0.0]])
def test_without_values_an_axis_runs_from_0_to_1(values):
    axis = linear_axis(values)
    assert (axis.low, axis.high) == (0, 1)


def test_decades_are_equally_far_apart_on_a_logarithmic_axis():
    axis = log_axis([1, 1977])
    assert [written for _, written in axis.ticks] == ["1", "10", "100", "1,000"]
    shares = [axis.share(value) for value, _ in axis.ticks]
    steps = [b - a for a, b in itertools.pairwise(shares)]
    assert steps == pytest.approx([1 / (math.log10(1977) * 1.06)] * 3)


def test_all_values_lie_within_a_logarithmic_axis():
    for values in ([3, 40], [1], [1, 1e6], [0, 5], [0]):
        axis = log_axis(values)
        assert all(0 < axis.share(v) < 1 for v in values)
        assert all(0 <= axis.share(v) <= 1 for v, _ in axis.ticks)
        assert len(axis.ticks) >= 1


def test_two_decades_or_less_have_ticks_at_2_and_5_too():
    assert [written for _, written in log_axis([1, 100]).ticks][:4] == ["1", "2", "5", "10"]
    assert [written for _, written in log_axis([7]).ticks] == ["5", "10"]


def test_zero_has_a_place_of_its_own_below_the_smallest():
    axis = log_axis([0, 4, 400])
    assert axis.ticks[0] == (0.0, "0")
    per_decade = axis.share(40) - axis.share(4)
    assert axis.share(4) - axis.share(0) == pytest.approx(0.35 * per_decade)
    assert "0" not in [written for _, written in log_axis([4, 400]).ticks]
