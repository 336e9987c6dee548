import logging
import math

import pytest

from d2_seesaw.evaluation.lvis.rules import AP_METRICS, AR_METRICS, METRICS
from d2_seesaw.evaluation.tables import (
    drop_absent,
    format_score,
    group_counts_text,
    print_longtail_results,
    text_table,
)

COUNTS = {"evaluated-r": 3.0, "evaluated-c": 7.0, "evaluated-f": 9.0}
TOTALS = {"categories-r": 4.0, "categories-c": 7.0, "categories-f": 9.0}


@pytest.fixture
def results():
    scores = {metric: float(i) for i, metric in enumerate(METRICS)}
    return {"bbox": {**scores, "APr": math.nan, **COUNTS, **TOTALS}, "segm": scores}


@pytest.fixture
def printed(caplog):
    def lines(results):
        with caplog.at_level(logging.INFO):
            print_longtail_results(results)
        return caplog.text.splitlines()

    return lines


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "n/a"), (0.0, "0.000"), (12.34567, "12.346"), (100.0, "100.000")]
)
def test_a_score_has_three_decimals_or_is_absent(value, text):
    assert format_score(value) == text


def test_a_table_keeps_texts_unchanged():
    assert cells(text_table(["a", "b"], [["1.500", "n/a"]]).splitlines()[-1]) == ["1.500", "n/a"]


def test_group_counts_are_scored_of_all():
    assert group_counts_text({**COUNTS, **TOTALS}) == "r: 3/4, c: 7/7, f: 9/9"


def test_group_counts_are_empty_for_other_evaluators():
    assert group_counts_text({"AP": 1.0}) == ""


def test_prints_a_row_for_each_task_with_absent_metrics(results, printed):
    rows = [cells(line) for line in printed(results) if line.startswith("|")]
    assert rows[0] == ["task", *AP_METRICS]
    assert rows[2] == ["bbox", *(f"{i}.000" for i in range(6)), "n/a", "7.000", "8.000"]
    assert rows[3] == ["segm", *(f"{i}.000" for i in range(9))]
    assert rows[4] == ["task", *AR_METRICS]
    assert rows[7] == ["segm", *(f"{i}.000" for i in range(9, 16))]


def test_metrics_of_coco_have_no_table_of_recall(results, printed):
    scores = {m: v for m, v in results["segm"].items() if m in AP_METRICS}
    assert len([line for line in printed({"segm": scores}) if line.startswith("|")]) == 3


def test_prints_the_categories_of_each_group_where_known(results, printed):
    counts = [line for line in printed(results) if "categories with" in line]
    assert counts == ["bbox: categories with ground truth: r: 3/4, c: 7/7, f: 9/9"]


def test_prints_a_table_of_segmentation_beside_that_of_detection(results, printed):
    groups = {"mIoUr": math.nan, "mACCf": 5.0, **COUNTS, **TOTALS}
    scores = {"mIoU": 1.0, "fwIoU": 2.0, "mACC": 3.0, "pACC": 4.0, "IoU-road": 6.0}
    lines = printed({**results, "sem_seg": {**scores, **groups}})
    rows = [cells(line) for line in lines if line.startswith("|")]
    assert rows[0] == ["task", *AP_METRICS]
    assert rows[8] == ["task", "mIoU", "fwIoU", "mACC", "pACC", "mIoUr", "mACCf"]
    assert rows[10] == ["sem_seg", "1.000", "2.000", "3.000", "4.000", "n/a", "5.000"]
    assert "sem_seg: categories with ground truth: r: 3/4, c: 7/7, f: 9/9" in lines


def test_prints_the_metrics_of_detectron2s_own_segmentation_evaluator(printed):
    rows = [cells(line) for line in printed({"sem_seg": {"mIoU": 1.0, "pACC": 2.0}})]
    assert rows[-3] == ["task", "mIoU", "pACC"]
    assert rows[-1] == ["sem_seg", "1.000", "2.000"]


@pytest.mark.parametrize("other", [{}, {"box_proposals": {"AR@100": 1.0}}])
def test_prints_no_table_without_detection_or_segmentation(other, printed):
    assert not [line for line in printed(other) if line.startswith("|")]


def test_absent_metrics_can_be_dropped(results):
    kept = drop_absent(results)
    assert kept["segm"] == results["segm"]
    assert results["bbox"].keys() - kept["bbox"].keys() == {"APr"}
