"""`d2-seesaw predict`: exit statuses, options and error messages."""

import json
import logging
import shutil

import cv2
import pytest
import torch
from PIL import Image

from d2_seesaw.cli import draw, evaluate, predict, report
from d2_seesaw.evaluation.predictions.score_origin import ScoreOrigin
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
        made.origin = ScoreOrigin(
            str(tmp_path / checkpoint), None, options["tta"], not options["calibrated"]
        )
        rule = options["threshold"]
        made.thresholds = (
            ScoreThresholds(torch.tensor([0.25, 0.75], dtype=torch.float64), rule)
            if rule == "best-f1"
            else ScoreThresholds.uniform(float(rule), 2)
        )
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


@pytest.fixture
def truth(tmp_path):
    """Write annotations of the picture, in which each class has the object that is found."""
    boxes = {4: [5, 10, 20, 20], 9: [5, 10, 20, 20]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 4, "name": "dark"}, {"id": 9, "name": "bright"}],
        "annotations": [annotation(n, 1, c) | {"bbox": boxes[c]} for n, c in enumerate(boxes, 1)],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    return str(tmp_path / "val.json")


@pytest.fixture
def log(caplog):
    """Capture the log although prediction, in the same process, sets up a logger of its own."""
    logging.getLogger("d2_seesaw").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("d2_seesaw").removeHandler(caplog.handler)


def score(folder, truth, *options):
    """Score the results; return nothing, because the table is logged."""
    options = ["--annotations", truth, "--task", "bbox", *map(str, options)]
    evaluate.main([str(folder / "out/results.json"), *options])


LOW = r"results\.json lacks the detections with a score below {}, says .*out/images\.json: "


@pytest.mark.parametrize(
    ("options", "weights", "wanted", "message"),
    [
        (["--tta"], "weights", [], "with test-time .*json; .*m.pth without it .*: give --tta"),
        ([], "weights", ["--tta"], "without test-time .*; .*m.pth with it .*: leave out --tta"),
        (["--no-calibration"], "weights", [], "predicted without calibration, says .*own calibr"),
        (
            [],
            "other",
            [],
            r"by m\.pth with the SHA-256 9a129038d9a0\.\.\., says .*m\.pth is d9298a10d1b0",
        ),
        ([], "weights", [], None),
        (["--tta"], "weights", ["--tta"], None),
    ],
)
def test_thresholds_of_other_scores_are_refused(
    given, truth, tmp_path, options, weights, wanted, message
):
    """Only those of the checkpoint, predicted as its thresholds are applied."""
    checkpoint = tmp_path / "m.pth"
    checkpoint.write_bytes(b"weights")
    call(tmp_path, *options, "--threshold", "0", "--json-only")
    checkpoint.write_bytes(weights.encode())
    files = [checkpoint.with_name(f"m{t}.thresholds.json") for t in ("", "_tta")]
    for file in files:
        file.write_text("of before")
    arguments = ("--thresholds-of", checkpoint, *wanted)
    if message is None:
        score(tmp_path, truth, *arguments)
        assert files["--tta" in wanted].read_text() != "of before"
    else:
        with pytest.raises(SystemExit, match=message) as error:
            score(tmp_path, truth, *arguments)
        assert "\n" not in str(error.value)
        assert all(file.read_text() == "of before" for file in files)
    images = json.loads((tmp_path / "out/images.json").read_text())
    assert images["info"]["d2_seesaw_predict"].pop("scores")["checkpoint"] == "m.pth"
    (tmp_path / "out/images.json").write_text(json.dumps(images))  # as earlier versions wrote it
    score(tmp_path, truth, *arguments)
    assert files["--tta" in wanted].read_text() != "of before"


@pytest.mark.parametrize(
    ("options", "lacking", "allowed"),
    [
        ([], LOW.format(r"0\.5") + "AP would be .*predict --threshold 0$", None),
        (["--threshold", "0.0501"], LOW.format(r"0\.0501"), None),
        (
            ["--threshold", "best-f1"],
            LOW.format(r"the threshold of their class \(best-f1, 0\.25 to 0\.75\)"),
            None,
        ),
        (
            ["--threshold", "0", "--max-detections", "2"],
            "at most 2 detections per image, .*300 are to be.*or give --max-dets-per-image 2$",
            ["--max-dets-per-image", "2"],
        ),
        (["--threshold", "0.05"], None, []),
        (["--threshold", "0.0001"], None, []),
    ],
)
def test_results_that_lack_detections_are_not_scored(
    given, truth, tmp_path, options, lacking, allowed, log
):
    """Neither by `evaluate` and `report compare`, nor to choose thresholds."""
    call(tmp_path, *options, "--json-only")
    (tmp_path / "m.pth").touch()
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    runs = [str(tmp_path / "out/results.json"), "--", str(tmp_path / "copy/results.json")]
    if lacking:
        for refused in (
            lambda: score(tmp_path, truth),
            lambda: score(tmp_path, truth, "--predicted-images", tmp_path / "out/images.json"),
            lambda: score(tmp_path, truth, "--thresholds-of", tmp_path / "m.pth"),
            lambda: report.main(["compare", *runs, "--annotations", truth]),
        ):
            with pytest.raises(SystemExit, match=lacking) as error:
                refused()
            assert "\n" not in str(error.value)
        assert not list(tmp_path.glob("*.thresholds.json"))
    if allowed is not None:
        score(tmp_path, truth, *allowed)
        assert ("score below 0.05, says" in log.text) == ("0.05" in options)
    images = json.loads((tmp_path / "out/images.json").read_text())
    images.pop("info")  # as earlier versions wrote it
    (tmp_path / "out/images.json").write_text(json.dumps(images))
    log.clear()
    score(tmp_path, truth, "--predicted-images", tmp_path / "out/images.json")
    assert "lacks" not in log.text
    assert "AP" in log.text


@pytest.mark.parametrize("origin", ["recorded", "earlier", "changed"])
def test_images_are_matched_by_file_name_in_every_command(
    given, tmp_path, origin, monkeypatch, log
):
    """The annotations number the two pictures the other way round, and all is found."""
    Image.fromarray(red_box(30)).save(tmp_path / "b.png")
    places = {1: ("b.png", 30), 2: ("a.png", 5)}
    content = {
        "images": [
            {"id": i, "file_name": f"val/{name}", "height": 40, "width": 60}
            for i, (name, _) in places.items()
        ],
        "categories": [{"id": 4, "name": "dark"}, {"id": 9, "name": "bright"}],
        "annotations": [
            annotation(10 * i + c, i, c) | {"bbox": [x, 10, 20, 20]}
            for i, (_, x) in places.items()
            for c in (4, 9)
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    call(tmp_path, "--threshold", "0", "--json-only", inputs=("a.png", "b.png"))
    results, images = tmp_path / "out/results.json", tmp_path / "out/images.json"
    if origin == "earlier":
        without = json.loads(images.read_text())
        del without["info"]
        images.write_text(json.dumps(without))
    if origin == "changed":
        results.write_text(results.read_text() + "\n")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    truth = ["--annotations", str(tmp_path / "val.json"), "--task", "bbox"]
    seen = []
    monkeypatch.setattr(evaluate, "print_longtail_results", seen.append)
    runs = [str(results), "--", str(tmp_path / "copy/results.json")]
    pictures = ["--images", str(tmp_path), "--errors", "missed", "--output", str(tmp_path / "png")]
    output = ["--format", "json", "--output", str(tmp_path / "compared"), "--resamples", "2"]
    commands = {
        evaluate.main: [str(results), *truth],
        report.main: ["compare", *runs, *truth, *output],
        draw.main: ["--results", str(results), *truth, *pictures],
    }
    if origin == "changed":
        for command, arguments in commands.items():
            message = r"results\.json is not the file .* give --predicted-images .*images\.json"
            with pytest.raises(SystemExit, match=message) as error:
                command(arguments)
            assert "\n" not in str(error.value)
        evaluate.main([str(results), *truth, "--predicted-images", str(images)])
    else:
        evaluate.main(commands[evaluate.main])
        report.main(commands[report.main])
        compared = json.loads((tmp_path / "compared/comparison.json").read_text())
        assert [score["AP"]["mean"] for score in compared["tasks"][0]["scores"].values()] == (
            pytest.approx([100, 100])
        )
        with pytest.raises(SystemExit, match="no image has an object or detection that passes"):
            draw.main(commands[draw.main])
        by_name = f"Images of {results} are matched with the annotations by file name"
        assert log.text.count(by_name) == 3
    assert seen[0]["bbox"]["AP"] == pytest.approx(100)


def test_ap_fixed_has_no_limit_of_detections_per_image(given, truth, tmp_path):
    call(tmp_path, "--threshold", "0", "--max-detections", "2", "--json-only")
    with pytest.raises(SystemExit, match=r"no such limit.*without --max-detections$"):
        score(tmp_path, truth, "--fixed-ap", "--max-dets-per-image", "2")


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
