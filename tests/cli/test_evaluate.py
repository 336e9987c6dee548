"""`d2-seesaw evaluate`: the results of the evaluator, options and one-line errors."""

import json
import logging
import math
import shutil

import pytest
from detectron2.data import MetadataCatalog

from d2_seesaw.cli import evaluate
from d2_seesaw.evaluation import LongTailLVISEvaluator
from d2_seesaw.evaluation.analysis.threshold_file import thresholds_path
from tests.evaluation.conftest import register  # noqa: F401
from tests.evaluation.lvis_data import random_data, run_evaluator, write_images


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs the command and returns the printed results."""

    def run(*arguments):
        results = {}
        monkeypatch.setattr(evaluate, "print_longtail_results", results.update)
        evaluate.main([*map(str, arguments)])
        return results

    return run


@pytest.fixture
def evaluated(register, tmp_path):  # noqa: F811
    """Evaluate a dataset; return its name, its file, the output folder and the results."""
    data, detections = random_data(seed=60)
    name = register(data)
    evaluator = LongTailLVISEvaluator(name, distributed=False, output_dir=str(tmp_path / "out"))
    results = run_evaluator(evaluator, detections)
    return name, tmp_path / f"{name}.json", tmp_path / "out", results


@pytest.mark.parametrize(
    ("file", "engine", "truth"),
    [
        ("lvis_instances_results.json", "sparse", "--dataset"),
        ("instances_predictions.npz", "sparse", "--annotations"),
        ("lvis_instances_results.json", "lvis", "--annotations"),
        ("instances_predictions.npz", "lvis", "--dataset"),
    ],
)
def test_the_command_repeats_the_evaluation(file, engine, truth, evaluated, run, tmp_path):
    name, annotations, folder, expected = evaluated
    given = {"--dataset": name, "--annotations": annotations}[truth]
    output = ["--output", tmp_path / "again"] if (engine, truth) == ("sparse", "--dataset") else []
    again = run(folder / file, truth, given, "--engine", engine, *output)
    for task in ("bbox", "segm"):
        assert again[task] == pytest.approx(expected[task], rel=0, abs=1e-9, nan_ok=True)
    if output:
        table = "per_category_segm.csv"
        assert (tmp_path / "again" / table).read_text() == (folder / table).read_text()


def test_the_options_are_passed_on(evaluated, run):
    _, annotations, folder, expected = evaluated
    common = (folder / "lvis_instances_results.json", "--annotations", annotations)
    assert run(*common, "--task", "segm").keys() == {"segm"}
    assert math.isnan(run(*common, "--class-agnostic")["bbox"]["APr"])
    limited = run(*common, "--max-dets-per-image", 2)
    assert limited["bbox"]["AP"] < expected["bbox"]["AP"]
    fixed = run(*common, "--max-dets-per-image", 2, "--fixed-ap")
    assert fixed["bbox"]["AP"] == pytest.approx(expected["bbox"]["AP"])
    regrouped = run(*common, "--train-annotations", annotations)
    assert regrouped["bbox"]["categories-r"] == 7  # each is in at most 10 of the 14 images


@pytest.mark.usefixtures("no_charts")
def test_the_report_has_pictures_of_the_images(evaluated, run, tmp_path):
    name, annotations, folder, _ = evaluated
    write_images(tmp_path / "images", random_data(seed=60)[0])
    results, output = folder / "instances_predictions.npz", ("--output", tmp_path / "again")
    page = tmp_path / "again" / "longtail.html"
    run(results, "--annotations", annotations, "--images", tmp_path / "images", *output)
    given = page.read_text()
    MetadataCatalog.get(name).set(image_root=str(tmp_path / "images"))
    run(results, "--dataset", name, *output)
    assert page.read_text() == given
    assert "data:image/jpeg" in given


def test_results_with_other_image_ids_are_scored_by_file_names(evaluated, run, tmp_path):
    _, annotations, folder, expected = evaluated
    data = json.loads(annotations.read_text())
    other = {image["id"]: 1000 - number for number, image in enumerate(data["images"])}
    for image in data["images"]:
        image["file_name"] = f"some folder/{image['id']}.jpg"
    annotations.write_text(json.dumps(data))
    pictures = [{"id": other[i["id"]], "file_name": f"{i['id']}.jpg"} for i in data["images"]]
    (tmp_path / "images.json").write_text(json.dumps({"images": pictures}))
    results = json.loads((folder / "lvis_instances_results.json").read_text())
    renumbered = [{**result, "image_id": other[result["image_id"]]} for result in results]
    (tmp_path / "results.json").write_text(json.dumps(renumbered))
    arguments = [tmp_path / "results.json", "--predicted-images", tmp_path / "images.json"]
    again = run(*arguments, "--annotations", annotations)
    for task in ("bbox", "segm"):
        assert again[task] == pytest.approx(expected[task], rel=0, abs=1e-9, nan_ok=True)


def test_likely_mistakes_cause_warnings(evaluated, run, tmp_path, capsys, caplog):
    _, annotations, folder, _ = evaluated
    common = (folder / "lvis_instances_results.json", "--annotations", annotations)
    run(*common)
    assert capsys.readouterr().out == ""
    images = tmp_path / "images.json"
    for beside in (images, folder / "images.json"):
        beside.write_text("{}")
    data = json.loads(annotations.read_text())
    for category in data["categories"]:
        del category["frequency"]
    annotations.write_text(json.dumps(data))
    run(*common)
    assert "Give --train-annotations" in capsys.readouterr().out
    assert "--predicted-images" not in caplog.text  # the file of an evaluation
    (tmp_path / "mine.json").write_bytes(common[0].read_bytes())
    run(tmp_path / "mine.json", *common[1:])
    assert f"If they are those of {images}, give it as --predicted-images" in caplog.text


def test_the_table_is_printed(evaluated, caplog):
    name, _, folder, expected = evaluated
    results = folder / "instances_predictions.npz"
    with caplog.at_level(logging.INFO):
        evaluate.main([str(results), "--dataset", name])
    assert f"{expected['segm']['APr']:.3f}" in caplog.text


@pytest.mark.parametrize(
    ("results", "truth", "message"),
    [
        ([], ["--dataset", "no_such_name"], "No dataset with an annotation file is registered"),
        ([], ["--annotations", "missing.json"], "No such file or directory: 'missing.json'"),
        ({}, None, "is not a file of results: expected a JSON list"),
        ([{"image_id": 100}], None, "1 of 1 detections have no 'category_id'"),
        (
            [{"image_id": 5, "category_id": 1, "score": 0.1, "bbox": [0, 0, 9, 9]}],
            None,
            "Image id 5 of a detection is not in the annotations",
        ),
    ],
)
def test_errors_have_one_line(results, truth, message, evaluated, run, tmp_path):
    _, annotations, _, _ = evaluated
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(SystemExit, match=message) as error:
        run(path, *(truth or ["--annotations", annotations]))
    assert str(error.value).startswith("d2-seesaw evaluate: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "and there is no .*none.pth"),
        (("--class-agnostic",), "categories that are not distinguished have no thresholds"),
        (("--any-scores",), r"none\.pth apply to its scores in \[0, 1\], not .* --any-scores"),
    ],
)
def test_impossible_thresholds_are_refused_before_anything_is_read(options, message, run, tmp_path):
    """The results do not exist either, which would be the message of a later check."""
    with pytest.raises(SystemExit, match=message):
        run("missing.json", "--annotations", "none.json", *options, "--thresholds-of",
            tmp_path / "none.pth")  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "wrong", "right", "message"),
    [
        ("inference_tta", [], ["--tta"], "with test-time .*inference_tta; .* without it .*: give"),
        ("inference", ["--tta"], [], "without test-time .*inference; .* with it .*: leave out"),
    ],
)
def test_the_folder_says_whether_the_scores_are_those_of_test_time_augmentation(
    folder, wrong, right, message, evaluated, run, tmp_path
):
    _, annotations, written, _ = evaluated
    checkpoint = tmp_path / "m.pth"
    checkpoint.write_bytes(b"weights")
    folder = written.rename(tmp_path / folder)
    common = ("--annotations", annotations, "--thresholds-of", checkpoint)
    for name in ("instances_predictions.npz", "lvis_instances_results.json"):
        with pytest.raises(SystemExit, match=message) as error:
            run(folder / name, *common, *wrong)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.thresholds.json"))
    run(folder / "instances_predictions.npz", *common, *right)
    assert thresholds_path(checkpoint, tta=bool(right)).is_file()
    shutil.copy(folder / "lvis_instances_results.json", folder / "of_another_program.json")
    run(folder / "of_another_program.json", *common, *wrong)
    assert thresholds_path(checkpoint, tta=bool(wrong)).is_file()
