import json

import lvis
import numpy as np
import pytest
from pycocotools.coco import COCO

from d2_seesaw.evaluation.lvis.official import lvis_from_dict
from d2_seesaw.evaluation.predictions import files
from d2_seesaw.evaluation.predictions.detections import EMPTY, Detections
from d2_seesaw.evaluation.predictions.files import read_results, save_columns, write_results
from tests.evaluation.federated_cases import federated_case


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(files, "_RESULTS_PER_BLOCK", 4)
    monkeypatch.setattr(files, "_CHARACTERS_PER_READ", 37)


@pytest.fixture
def results():
    return federated_case(0, "real boxes")[1]


@pytest.mark.parametrize("number", [0, 1, 4, 5, 20])
def test_the_bytes_equal_those_of_json_dumps(number, results, tmp_path):
    path = tmp_path / "results.json"
    write_results(str(path), Detections.from_results(results[:number]))
    assert path.read_text() == json.dumps(results[:number])


@pytest.mark.parametrize("task", [None, "bbox", "segm"])
def test_bytes_equal_those_of_json_dumps_for_text_that_looks_like_json(results, task, tmp_path):
    ids = ['a", "b', "], [", "%s %d", "\\", '"', "é\n", "", "\ud83d\ude00"]
    changed = [
        {
            **r,
            "image_id": ids[i % 8],
            "category_id": ids[-1 - i % 8],
            "score": np.float32(0.1).item(),
        }
        for i, r in enumerate(results)
    ]
    changed = [
        {**r, "keypoints": [0.5, i, 1e-9], "mask_score": 1e22} for i, r in enumerate(changed)
    ]
    changed[1]["segmentation"] = changed[6]["segmentation"] = []
    path = tmp_path / "results.json"
    for some in (changed, changed[1:2], changed[:5]):  # one without a mask; blocks of 4 and 1
        detections = Detections.from_results(some)
        write_results(str(path), detections, task)
        assert path.read_text() == json.dumps(list(detections.results(task)))


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_lvis_and_pycocotools_read_the_file(task, results, tmp_path, capsys):
    data = federated_case(0, "real boxes")[0]
    path = tmp_path / "results.json"
    write_results(str(path), Detections.from_results(results), task)
    coco = COCO()
    coco.dataset = data | {"info": {}}
    coco.createIndex()
    by_lvis = lvis.LVISResults(lvis_from_dict(data), str(path)).anns
    assert len(by_lvis) == len(coco.loadRes(str(path)).anns) == len(results)


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("number", [0, 1, 20])
def test_any_layout_of_json_is_read(number, layout, results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(" \n" * 30 + json.dumps(results[:number], **layout) + "\n")
    assert list(read_results(path).results()) == results[:number]


def test_an_interrupted_write_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("earlier")
    with pytest.raises(TypeError, match="complex"):
        write_results(str(path), Detections(np.array([1j]), np.ones(1), np.ones(1)))
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert path.read_text() == "earlier"


def test_columns_survive_their_file(results, tmp_path):
    for detections in (Detections.from_results(results), EMPTY):
        save_columns(str(tmp_path / "found.npz"), detections)
        again = read_results(tmp_path / "found.npz")
        assert list(again.results()) == list(detections.results())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"annotations": []}', 'expected a JSON list of detections, it starts with .{"annotatio'),
        ("", "expected a JSON list"),
        ("[1, 2]", "expected dicts in the list, got 1"),
        ('[{"image_id": 1}', "Expecting"),
        ('[{"image_id": 1} {"image_id": 1}]', "Expecting ',' delimiter"),
        ('[{"image_id": 1}, "', "Unterminated string"),
        ('[{"image_id": 1, "category_id": 1}]', "1 of 1 detections have no 'score'"),
    ],
)
def test_files_of_another_kind_are_refused(text, message, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"results\.json is not a file of results: .*{message}"):
        read_results(path)


def test_arrays_of_another_kind_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", scores=np.zeros(1))
    with pytest.raises(ValueError, match=r"it has no \['category_ids', 'image_ids'\]"):
        read_results(tmp_path / "x.npz")
