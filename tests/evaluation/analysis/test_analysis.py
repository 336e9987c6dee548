import copy
import dataclasses
import json
import math

import pytest

from d2_seesaw.evaluation.analysis import (
    CategoryThreshold,
    Confusion,
    ConfusionExample,
    ConfusionMatrix,
    LongTailAnalysis,
    ReliabilityCurve,
    ThresholdAnalysis,
    ThresholdSummary,
    analysis_path,
    read_analysis,
    write_analysis,
)
from d2_seesaw.evaluation.tables import CategoryResult

NAN = math.nan
ANALYSIS = LongTailAnalysis(
    task="segm",
    ground_truth="0123456789abcdef",
    images=7,
    detections=2100,
    metrics={"AP": 25.3, "APr": NAN, "evaluated-r": 0.0, "categories-r": 1.0},
    categories=[
        CategoryResult(3, "mug", "f", 500, 5, 9, AP=25.3, AP50=40.0, AR=31.25),
        CategoryResult(8, "chalice", "r", None, 0, 0, AP=NAN, AP50=NAN, AR=NAN),
    ],
    confusions=[Confusion(3, 3, 6), Confusion(3, 8, 1), Confusion(3, None, 2)],
    calibration=[
        ReliabilityCurve("all", [4, 0], [0.2, NAN], [0.25, NAN], 5.0),
        ReliabilityCurve("r", [0, 0], [NAN, NAN], [NAN, NAN], NAN),
    ],
    examples=[
        ConfusionExample(8, 3, 139, [1.5, 2.0, 30.0, 40.25], [1.0, 2.0, 30.0, 41.0], 0.75),
        ConfusionExample(8, None, "set/139 é", [0.0, 0.0, 9.0, 9.0], None, None),
    ],
    thresholds=ThresholdAnalysis(
        folds=5,
        fewest_objects=3,
        categories=[
            CategoryThreshold(
                *(3, "mug", "f", 9, 0.25, "own", 8, 75.0, 66.7, 70.6, 66.0, 50.0),
                *(0.5, 40.0, NAN, NAN),
            )
        ],
        summaries=[ThresholdSummary("best-f1", "r", 0, NAN, NAN, NAN, NAN)],
    ),
    matrix=ConfusionMatrix([Confusion(3, None, 4), Confusion(3, 3, 5)], [(8, 2)]),
)


def as_text(analysis):
    """Represent an analysis as text, because nan does not equal itself."""
    return repr(dataclasses.asdict(analysis))


def test_an_analysis_survives_its_file(tmp_path):
    write_analysis(tmp_path, ANALYSIS)
    assert [p.name for p in tmp_path.iterdir()] == ["longtail_segm.json"]
    again = read_analysis(analysis_path(tmp_path, "segm"))
    assert as_text(again) == as_text(ANALYSIS)
    assert again.confusions == ANALYSIS.confusions
    assert again.examples == ANALYSIS.examples
    assert math.isnan(again.metrics["APr"])
    assert math.isnan(again.categories[1].AR)
    assert math.isnan(again.calibration[0].precision[1])
    assert again.categories[1].train_images is None
    assert again.matrix == ANALYSIS.matrix
    data = ANALYSIS.to_json()
    del data["thresholds"], data["matrix"]  # as in files of earlier versions
    assert LongTailAnalysis.from_json(data).thresholds is None


def test_the_file_is_strict_json_with_null_for_unknown_values(tmp_path):
    write_analysis(tmp_path, ANALYSIS)

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "longtail_segm.json").read_text()
    data = json.loads(text, parse_constant=refuse)
    assert data["version"] == 1
    assert data["metrics"]["APr"] is None
    assert data["calibration"][1] == {
        **{"group": "r", "detections": [0, 0], "error": None},
        **{"mean_score": [None, None], "precision": [None, None]},
    }


@pytest.mark.parametrize("data", [[], "text", None, {}, {"version": 2}, {"version": None}])
def test_other_data_and_other_versions_are_refused(data):
    if isinstance(data, dict) and "version" in data:
        data = ANALYSIS.to_json() | data
    with pytest.raises(ValueError, match="expected the analysis of an evaluation, of version 1"):
        LongTailAnalysis.from_json(data)


OPTIONAL = ("examples", "thresholds", "matrix")
REQUIRED = [f.name for f in dataclasses.fields(LongTailAnalysis) if f.name not in OPTIONAL]


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_reported(field):
    data = ANALYSIS.to_json()
    del data[field]
    with pytest.raises(ValueError, match=f"is damaged: .*'{field}'"):
        LongTailAnalysis.from_json(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metrics", [1.0]),
        ("categories", [{"name": "mug"}]),
        ("categories", [None]),
        ("confusions", [{"category_id": 3}]),
        ("confusions", [{"category_id": 3, "predicted_id": 3, "objects": 1, "more": 1}]),
        ("confusions", None),
        ("calibration", [{"group": "r"}]),
        ("calibration", [7]),
        ("examples", [{"category_id": 3}]),
        ("examples", [7]),
        ("examples", None),
        ("thresholds", {"folds": 5}),
        ("thresholds", 7),
        ("matrix", {"confusions": []}),
        ("matrix", {"confusions": [], "background": [7]}),
    ],
)
def test_damaged_parts_are_one_clear_error(field, value):
    data = copy.deepcopy(ANALYSIS.to_json()) | {field: value}
    with pytest.raises(ValueError, match="the analysis of an evaluation is damaged"):
        LongTailAnalysis.from_json(data)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}'])
def test_a_file_of_another_kind_is_reported(text, tmp_path):
    path = tmp_path / "longtail_bbox.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"longtail_bbox\.json: "):
        read_analysis(path)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"longtail_bbox\.json"):
        read_analysis(analysis_path(tmp_path, "bbox"))
