import pytest

from d2_seesaw.data.check.overview import CategoryOverview, DatasetOverview
from d2_seesaw.data.frequency import frequency_group
from d2_seesaw.report.dataset_figures import object_sizes, repeat_factors, training_images
from tests.report.charts import drawn, legend, points, svg, texts, titles


def overview(*train_images, sizes=(0,) * 9):
    categories = [
        CategoryOverview(i, f"<{n}>", frequency_group(n), n, n, n, 10.0, max(1.0, 100 / (n + 1)))
        for i, n in enumerate(train_images)
    ]
    return DatasetOverview(9, 9, sum(sizes), categories, sizes, 1e-3, 9.0, 0)


def test_categories_are_ranked_on_a_logarithmic_axis():
    chart = training_images(overview(10, 1000, 1, 100))
    found = points(chart)
    ranked = [f"<{n}>: {n:,} training images" for n in (1000, 100, 10, 1)]
    places = [found[text] for text in ranked]
    assert places == [(1, 1000), (2, 100), (3, 10), (4, 1)]
    y = drawn(chart).axes.transData.transform(places)[:, 1]
    assert y[0] - y[1] == pytest.approx(y[1] - y[2]) == pytest.approx(y[2] - y[3])
    assert sorted(titles(svg(chart))) == sorted(ranked)
    assert legend(chart) == ["rare", "common", "frequent"]


def test_zero_is_below_one_and_has_a_tick():
    def ticks(chart):
        return [label.get_text() for label in drawn(chart).axes.get_yticklabels()]

    assert ticks(training_images(overview(1000, 1, 0))) == ["0", "1", "10", "100", "1,000"]
    assert ticks(training_images(overview(100, 1))) == ["1", "10", "100"]
    assert ticks(repeat_factors(overview(100, 50))) == ["1", "2", "5", "10"]


def test_the_bounds_of_groups_are_lines_at_their_values():
    chart = training_images(overview(1000, 10))
    assert [line.get_ydata() for line in drawn(chart).axes.lines] == [[100, 100], [10, 10]]
    assert texts(chart) == ["frequent above", "rare up to here"]


def test_repeat_factors_are_drawn_for_categories_with_images():
    assert points(repeat_factors(overview(9, 99, 0))) == {
        "<99>: 1.00": (1, 1),
        "<9>: 10.00": (2, 10),
    }


def test_bars_are_as_high_as_their_numbers():
    chart = object_sizes(overview(5, sizes=(0, 5, 10, 0, 0, 0, 0, 0, 120_000)))
    (bars,) = drawn(chart).axes.containers
    assert [bar.get_height() for bar in bars][:3] == [0, 5, 10]
    assert titles(svg(chart)) == [
        "5 objects of 8 to 16 pixels",
        "10 objects of 16 to 32 pixels",
        "120,000 objects of ≥ 1024 pixels",
    ]
    assert "120,000" in texts(chart)


@pytest.mark.parametrize("chart", [training_images, repeat_factors, object_sizes])
def test_nothing_to_draw_is_an_empty_chart(chart, recwarn):
    assert titles(svg(chart(overview()))) == []
    assert not [w for w in recwarn if "matplotlib" in str(w.filename)]
