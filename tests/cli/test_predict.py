"""`d2-seesaw predict`: exit statuses, options and error messages."""

import json
import shutil

import cv2
import pytest
from PIL import Image

from d2_seesaw.cli import evaluate, predict
from d2_seesaw.inference.thresholds import ScoreThresholds
from tests.data.own_data import annotation
from tests.inference.test_files import predictor, red_box


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Write a picture and replace the predictor; return the options that it was loaded with."""
    asked = {}

    def load(checkpoint, **options):
        asked.update(checkpoint=checkpoint, **options)
        made = predictor()
        made.thresholds = ScoreThresholds.uniform(float(options["threshold"]), 2)
        return made

    monkeypatch.setattr(predict, "load_predictor", load)
    Image.fromarray(red_box(5)).save(tmp_path / "a.png")
    return asked


def call(folder, *arguments, inputs=("a.png",)):
    paths = [str(folder / name) for name in inputs]
    return predict.main(
        ["--checkpoint", "m.pth", *paths, "--output", str(folder / "out"), *arguments]
    )


def test_options_reach_the_model_and_the_results(given, tmp_path):
    config = tmp_path / "c.yaml"
    config.touch()
    options = ["--tta", "--device", "cpu", "--config-file", str(config), "--no-calibration"]
    limits = ["--threshold", "0.1", "--max-detections", "3", "--json-only"]
    assert call(tmp_path, *options, *limits) == 0
    expected = {"checkpoint": "m.pth", "config_file": config, "device": "cpu", "tta": True}
    expected |= {"trust": False, "calibrated": False}
    assert given == {**expected, "threshold": "0.1"}
    assert len(json.loads((tmp_path / "out/results.json").read_text())) == 3
    assert not (tmp_path / "out/a.png").exists()


def test_a_split_of_a_folder_is_predicted_and_scored(given, tmp_path, capsys):
    for name in "bc":
        Image.fromarray(red_box(5)).save(tmp_path / f"{name}.png")
    truth = {
        "images": [{"id": 8, "file_name": "b.png", "height": 40, "width": 60}],
        "categories": [{"id": 4, "name": "dark"}, {"id": 9, "name": "bright"}],
        "annotations": [
            annotation(1, 8, 4),
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    options = ["--threshold", "0", "--json-only", "--images-of", str(tmp_path / "val.json")]
    assert call(tmp_path, *options, inputs=(".",)) == 0
    predicted = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [image["file_name"] for image in predicted] == ["b.png"]
    files = ["--predicted-images", "out/images.json", "--annotations", "val.json"]
    files = [part if part.startswith("--") else str(tmp_path / part) for part in files]
    evaluate.main([str(tmp_path / "out/results.json"), *files])
    assert "AP" in capsys.readouterr().out


def test_the_exit_status_reports_a_skipped_file(given, tmp_path):
    (tmp_path / "bad.jpg").touch()
    assert call(tmp_path, inputs=("bad.jpg", "a.png")) == 1
    assert (tmp_path / "out/a.png").is_file()


@pytest.mark.parametrize(
    "wrong", [("--threshold", "2"), ("--threshold", "best"), ("--max-detections", "0")]
)
def test_options_out_of_range_are_refused(given, tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as error:
        call(tmp_path, *wrong)
    assert error.value.code == 2
    assert f"got {wrong[1]}" in capsys.readouterr().err.replace("'", "")


def test_missing_files_are_one_line_errors_before_anything_is_written(tmp_path, capsys):
    Image.fromarray(red_box(5)).save(tmp_path / "a.png")
    for inputs, message in ((("b.png",), "b.png does not exist"), (("a.png",), "'m.pth' does not")):
        with pytest.raises(SystemExit) as error:
            call(tmp_path, inputs=inputs)
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_label_maps_that_would_be_overwritten_are_a_one_line_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "load_predictor", lambda *_, **__: predictor(is_semantic=True))
    (tmp_path / "in/labels").mkdir(parents=True)
    for name in ("a.png", "labels/a.png"):
        Image.fromarray(red_box(5)).save(tmp_path / "in" / name)
    with pytest.raises(SystemExit) as error:
        call(tmp_path, inputs=("in",))
    assert error.value.code == 2
    assert "would have the same path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call(tmp_path, "--json-only", inputs=("in",)) == 0


def test_label_maps_of_the_users_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "load_predictor", lambda *_, **__: predictor(is_semantic=True))
    Image.fromarray(red_box(5)).save(tmp_path / "a.png")
    film = cv2.VideoWriter(str(tmp_path / "f.g.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (60, 40))
    film.write(red_box(5))
    film.release()
    for name in ("a.png", "f.g/000007.png"):
        path = tmp_path / "out/labels" / name
        path.parent.mkdir(parents=True)
        path.write_text("precious")
        with pytest.raises(SystemExit):
            call(tmp_path, inputs=("a.png", "f.g.avi"))
        assert f"{path} exists, and is not from an earlier run" in capsys.readouterr().err
        assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == [path]
        shutil.rmtree(tmp_path / "out")
    for _ in range(2):
        assert call(tmp_path, inputs=("a.png", "f.g.avi")) == 0
    assert (tmp_path / "out/labels/f.g/000000.png").is_file()


def test_files_of_the_users_are_kept_and_own_ones_replaced(given, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("images.json", "results.json", "a.png"):
        (out / name).write_text("precious")
        with pytest.raises(SystemExit) as error:
            call(tmp_path)
        assert error.value.code == 2
        assert f"{out / name} exists, and is not from an earlier run" in capsys.readouterr().err
        assert {path.name: path.read_text() for path in out.iterdir()} == {name: "precious"}
        assert given == {}  # refused before the model was loaded
        (out / name).unlink()
    (out / "a.png").write_text("precious")
    assert call(tmp_path, "--json-only") == 0  # replaces no picture
    Image.fromarray(red_box(5)).save(tmp_path / "b.png")
    for path in (out / "b.png", out / "images.json"):
        assert call(tmp_path, "--threshold", "0.1", inputs=("b.png",)) == 0
        path.write_text("of the earlier call")
    assert call(tmp_path, inputs=("b.png",)) == 0
    assert len(json.loads((out / "results.json").read_text())) == 2
    with pytest.raises(SystemExit):
        call(tmp_path, inputs=("a.png", "b.png"))
    assert (out / "a.png").read_text() == "precious"
    assert call(tmp_path, "--overwrite") == 0
    assert Image.open(out / "a.png").size == (60, 40)
