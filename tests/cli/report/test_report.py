"""`d2-seesaw report` on small synthetic evaluations."""

import json
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_seesaw.cli import report
from d2_seesaw.evaluation import LongTailLVISEvaluator
from d2_seesaw.evaluation.analysis import read_analysis, write_analysis
from d2_seesaw.utils.marks import RECORD
from tests.evaluation.analysis_data import lvis_like
from tests.evaluation.conftest import register  # noqa: F401
from tests.evaluation.html_text import cards, section
from tests.evaluation.lvis_data import random_data, run_evaluator, write_images


@pytest.fixture
def run(capsys):
    """Return a function that runs the command and returns the printed paths."""

    def run(*arguments):
        report.main([*map(str, arguments)])
        return capsys.readouterr().out.split()

    return run


@pytest.fixture
def folders(tmp_path):
    """Write two evaluations of both tasks."""
    found = []
    for seed, name in enumerate(("softmax", "seesaw")):
        folder = tmp_path / name / "inference"
        folder.mkdir(parents=True)
        for task in ("bbox", "segm"):
            write_analysis(folder, lvis_like(40, seed=seed, task=task))
        found.append(folder)
    return found


def test_a_run_has_its_page_with_masks_first(folders, run, tmp_path):
    output = tmp_path / "new" / "r.html"
    assert run(folders[0], "--output", output) == [str(output)]
    text = output.read_text(encoding="utf-8")
    assert "<h1>Long-tail report: softmax</h1>" in text
    assert text.index("Masks: metrics") < text.index("Boxes: metrics")


@pytest.mark.slow
def test_the_files_of_an_evaluator_become_a_report(register, run, tmp_path):  # noqa: F811
    data, detections = random_data(seed=60)
    folder = tmp_path / "run"
    evaluator = LongTailLVISEvaluator(
        register(data), distributed=False, output_dir=str(folder / "inference")
    )
    results = run_evaluator(evaluator, detections)
    run(folder / "inference", "--output", tmp_path / "r.html", "--figures", folder / "figures")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    for task in ("bbox", "segm"):
        assert f"<b>{results[task]['AP']:.1f}</b><span>AP</span>" in text
    found = cards(section(text, "Masks: metrics"))
    assert found["objects"] == str(len(data["annotations"]))
    assert len(list((folder / "figures").iterdir())) == 6


@pytest.fixture
def evaluated(register, tmp_path):  # noqa: F811
    """Evaluate a dataset; return its name, its file, the output folder and the image folder."""
    data, detections = random_data(seed=60)
    name = register(data)
    folder = tmp_path / "run" / "inference"
    evaluator = LongTailLVISEvaluator(name, distributed=False, output_dir=str(folder))
    run_evaluator(evaluator, detections)
    write_images(tmp_path / "images", data)
    return name, tmp_path / f"{name}.json", folder, tmp_path / "images"


@pytest.mark.usefixtures("no_charts")
@pytest.mark.slow
def test_with_images_the_page_has_pictures(evaluated, run, tmp_path):
    name, annotations, folder, images = evaluated
    output = ("--output", tmp_path / "r.html")
    run(folder, *output)
    without = (tmp_path / "r.html").read_text()
    assert "data:image/jpeg" not in without
    run(folder, *output, "--annotations", annotations, "--images", images)
    text = (tmp_path / "r.html").read_text()
    numbers = [len(read_analysis(folder / f"longtail_{t}.json").examples) for t in ("segm", "bbox")]
    assert min(numbers) > 0
    assert text.count("data:image/jpeg") == sum(numbers)
    pictures = r"<section><h2>[^<]*: pictures of.*?</section>\n"
    assert re.sub(pictures, "", text, flags=re.DOTALL) == without
    MetadataCatalog.get(name).set(image_root=str(images))
    run(folder, *output, "--dataset", name)
    assert (tmp_path / "r.html").read_text() == text


@pytest.mark.usefixtures("no_charts")
def test_a_config_may_register_the_dataset(evaluated, run, tmp_path):
    _, annotations, folder, images = evaluated
    config = tmp_path / "own.py"
    config.write_text(
        "from d2_seesaw.data import register_longtail_instances\n"
        f"register_longtail_instances('report_test', {{}}, '{annotations}', '{images}')\n"
    )
    try:
        run(folder, "--output", tmp_path / "r.html", "--dataset", "report_test",
            "--config-file", config)  # fmt: skip
    finally:
        DatasetCatalog.pop("report_test", None)
        MetadataCatalog.pop("report_test", None)
    assert "data:image/jpeg" in (tmp_path / "r.html").read_text()


@pytest.mark.usefixtures("no_charts")
def test_missing_images_are_counted(evaluated, run, tmp_path):
    _, annotations, folder, images = evaluated
    number = len(read_analysis(folder / "longtail_segm.json").examples)
    for path in images.glob("*/*"):
        path.unlink()
    run(folder, "--output", tmp_path / "r.html", "--annotations", annotations, "--images", images)
    text = (tmp_path / "r.html").read_text()
    assert f"{number} of {number} images could not be read" in section(text, "Masks: pictures .*?")


def test_missing_inputs_of_pictures_are_one_line_errors(evaluated, run, tmp_path):
    name, annotations, folder, images = evaluated
    other = tmp_path / "other.json"
    content = json.loads(annotations.read_text())
    for image in content["images"]:
        image["id"] += 1000
    for annotation in content["annotations"]:
        annotation["image_id"] += 1000
    other.write_text(json.dumps(content))
    cases = {
        (folder, "--annotations", annotations): "give --images DIR too",
        (folder, "--dataset", name): "give --images DIR too",
        (folder, "--images", images): "give --annotations FILE or --dataset NAME too",
        (
            folder,
            "--annotations",
            annotations,
            "--images",
            tmp_path / "no",
        ): "images .* does not exist",
        (folder, "--dataset", "no_such", "--images", images): "registered as 'no_such'",
        (
            folder,
            "--annotations",
            other,
            "--images",
            images,
        ): "not belong to this evaluation",
        (
            folder,
            folder,
            "--annotations",
            annotations,
            "--images",
            images,
        ): "shows no images",
    }
    for arguments, message in cases.items():
        with pytest.raises(SystemExit, match=message):
            run(*arguments, "--output", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.usefixtures("no_charts")
def test_the_page_has_a_default_name(folders, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(folders[0]) == ["longtail.html"]
    assert (tmp_path / "longtail.html").is_file()


@pytest.mark.usefixtures("no_charts")
def test_only_what_is_asked_for_is_written(evaluated, run, tmp_path, monkeypatch):
    _, annotations, folder, images = evaluated
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert run(folder, "--confusion", "c.csv") == ["c.csv"]
    for runs in ([folder], [folder, folder]):
        assert all(file.startswith("f/") for file in run(*runs, "--names", *"ab"[: len(runs)],
            "--figures", "f"))  # fmt: skip
    assert {path.name for path in work.iterdir()} == {"c.csv", "f", RECORD}
    assert run(folder, "--confusion", "c.csv", "--output", "r.html") == ["r.html", "c.csv"]
    pictures = ("--annotations", annotations, "--images", images)  # they are on the page
    assert run(folder, "--confusion", "c.csv", *pictures) == ["longtail.html", "c.csv"]


@pytest.mark.usefixtures("no_charts")
def test_files_of_the_users_are_kept_and_own_ones_replaced(evaluated, run, tmp_path, monkeypatch):
    run_folder = evaluated[2]
    work = tmp_path / "work"
    (work / "f").mkdir(parents=True)
    monkeypatch.chdir(work)
    for option, value, replaced in (
        ("--output", "notes.html", "notes.html"),
        ("--confusion", "val.csv", "val.csv"),
        ("--confusion", "val.png", "val.png"),
        ("--confusion", "val.pdf", "val.pdf"),
        ("--figures", "f", "f/outcomes_bbox.png"),
    ):
        for runs in [(run_folder,), (run_folder, run_folder, "--names", "a", "b")]:
            if runs[1:] and option == "--confusion":
                continue
            name = replaced.replace("outcomes", "outcomes_compared") if runs[1:] else replaced
            (work / name).write_text("precious")
            (work / RECORD).unlink(missing_ok=True)
            before = sorted(work.rglob("*"))
            with pytest.raises(SystemExit, match=f"{name} exists, and is not from .*--overwrite"):
                run(*runs, option, value)
            assert (work / name).read_text() == "precious"
            assert sorted(work.rglob("*")) == before
            run(*runs, option, value, "--overwrite")
            written = (work / name).read_bytes()
            assert written != b"precious"
            run(*runs, option, value)  # an own file
            assert (work / name).read_bytes() == written


@pytest.mark.usefixtures("no_charts")
def test_one_file_is_one_task(folders, run, tmp_path):
    run(folders[0] / "longtail_segm.json", "--output", tmp_path / "r.html", "--names", "<mine>")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Boxes" not in text
    assert "Long-tail report: &lt;mine&gt;" in text


@pytest.mark.usefixtures("no_charts")
def test_the_second_of_two_runs_is_compared_with_the_first(folders, run, tmp_path):
    run(*folders, "--names", "A", "B", "--output", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>B compared with A</h1>" in text
    assert text.index("Masks: metrics") < text.index("Boxes: metrics")
    assert report.run_names(None, folders) == ["softmax", "seesaw"]


@pytest.mark.usefixtures("no_charts")
def test_only_tasks_of_both_runs_are_compared(folders, run, tmp_path):
    (folders[1] / "longtail_segm.json").unlink()
    run(*folders, "--output", tmp_path / "r.html")
    assert "Masks" not in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_charts")
def test_figures_are_written_beside_the_page(folders, run, tmp_path):
    common = ("--output", tmp_path / "r.html", "--figures", tmp_path / "figures")
    masks = [folder / "longtail_segm.json" for folder in folders]
    one, two = run(masks[0], *common), run(*masks, *common)
    assert len(one) == len(two) == 4
    for path in {*one, *two} - {str(tmp_path / "r.html")}:
        with Image.open(path) as picture:
            assert picture.width == 990
    assert any("outcomes_compared_segm" in path for path in two)


@pytest.mark.usefixtures("no_charts")
def test_folders_of_the_same_name_are_distinguished(tmp_path):
    folders = [tmp_path / part / "run" / "inference" for part in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert report.run_names(None, folders) == [str(folder) for folder in folders]
    assert report.run_names(None, [tmp_path / "x.json"]) == [tmp_path.name]


def test_errors_have_one_line(folders, run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("{}")
    for task in ("bbox", "segm"):
        (folders[1] / f"longtail_{task}.json").unlink()
    write_analysis(folders[1], lvis_like(40, task="bbox"))
    boxes, masks = folders[1], folders[0] / "longtail_segm.json"
    cases = {
        (tmp_path / "empty",): r"no longtail_segm.json or longtail_bbox.json.*d2-seesaw evaluate .*"
        "--output DIR",
        (tmp_path / "none",): "No such file",
        (tmp_path / "other.json",): "expected the analysis of an evaluation",
        (boxes, masks): "no task in common",
        (*folders, "--names", "a"): r"one name for each run, 2, got \['a'\]",
        (*folders, "--names", "a", "a"): "two names",
    }
    for arguments, message in cases.items():
        with pytest.raises(SystemExit, match=message) as error:
            run(*arguments, "--output", tmp_path / "r.html")
        assert str(error.value).startswith("d2-seesaw report: ")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "r.html").exists()
