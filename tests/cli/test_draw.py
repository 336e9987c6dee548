"""`d2-seesaw draw`: any category ids, with and without masks, and names in any script."""

import json
import logging
import re
from functools import partial

import cv2
import pytest
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.cli import draw
from d2_seesaw.cli.train.output import save_config
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.inference import drawing
from d2_seesaw.report.images import page, pictures
from d2_seesaw.utils.files import write_text
from tests.data.own_data import IDS, content, write


@pytest.fixture
def run(tmp_path):
    """A run on data with the ids 7, 40 and 1000, with predictions of each."""
    name = f"drawn_{tmp_path.name}"
    json_file = write(tmp_path)
    register_longtail_instances(name, json_file=json_file, image_root=tmp_path / "images")
    cfg = LazyConfig.load("configs/quickstart/seesaw.py")
    cfg.train.output_dir = str(tmp_path)
    cfg.dataloader.test.dataset.names = name
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    yield tmp_path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_a_run_is_drawn_that_was_moved_and_whose_datasets_only_its_config_registered(run, tmp_path):
    save(run, predictions())
    cfg = LazyConfig.load(str(run / "config.yaml"))
    (name,) = {cfg.dataloader.test.dataset.names}
    save_config(cfg, run / "config.yaml")
    moved = tmp_path / "moved"
    moved.mkdir()
    for entry in ("config.yaml", "config.datasets.json", "inference"):
        (run / entry).rename(moved / entry)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    call(moved, "--page", moved / "page.html")
    assert MetadataCatalog.get(name).json_file == str(run / "train.json")
    assert MetadataCatalog.get(name).image_root == str(run / "images")


def predictions(**extra):
    return [
        {"image_id": 3, "category_id": i, "bbox": [4, 4, 8, 8], "score": 0.9, **extra} for i in IDS
    ]


def save(run, results):
    write_text(run / "inference" / draw.RESULTS[1], json.dumps(results))


def call(*arguments):
    draw.main([*map(str, arguments), "--min-side", "48"])


def test_a_run_is_found_and_any_ids_are_drawn_with_their_names(run, monkeypatch, capsys):
    save(run, predictions(segmentation=content()["annotations"][2]["segmentation"]))
    seen = []
    plain = pictures.caption

    def spy(entry, names, min_score, *, is_object):
        text = plain(entry, names, min_score, is_object=is_object)
        seen.append(text)
        return text

    monkeypatch.setattr(pictures, "caption", spy)
    call(run, "--image-ids", "3")
    truth, found = ["kerb", "kerb, missed"], ["kerb 0.90", "drain 0.90, is kerb"]
    assert seen == [*truth, *found, "hydrant 0.90, is kerb"]
    assert cv2.imread(str(run / "pictures/3.png")).shape == (48 + 2 * 28, 2 * 64, 3)
    assert capsys.readouterr().out == (
        f"Pictures: 1 in {run / 'pictures'} (ground truth left, predictions right)\n"
    )
    for arguments in ([run], [run / "inference"], ["--config-file", run / "config.yaml"]):
        page = run / "page.html"
        call(*arguments, "--page", page, "--errors", "confused", "missed", "--sort", "errors")
        assert page.read_text().count('id="jpeg-') == 4
        page.unlink()


def test_detections_are_filtered_before_their_number_is_limited(run, monkeypatch):
    crowd = [{**predictions()[1], "score": 0.5 + i / 1000} for i in range(150)]
    save(run, [*crowd, {**predictions()[0], "score": 0.35}])  # a right one, the last of 151
    seen = []
    plain = {name: getattr(pictures, name) for name in ("caption", "_title")}

    def spy(name, *args, **options):
        result = plain[name](*args, **options)
        seen.append(result if name == "caption" else args[0])
        return result

    for name in plain:
        monkeypatch.setattr(pictures, name, partial(spy, name))
    call(run, "--image-ids", "3", "--classes", "kerb", "--errors", "right")
    assert seen == ["ground truth", "kerb 0.35", "predictions"]
    seen.clear()
    call(run, "--image-ids", "3", "--classes", "drain")
    assert seen[-1] == "predictions: the best 100 of 150"
    found = [text for text in seen if text.startswith("drain")]
    assert (len(found), found[0], found[-1]) == (100, "drain 0.65, is kerb", "drain 0.55, is kerb")
    look = run / "look.html"
    for names, scores in (["kerb"], (49, 0.35)), (["drain", "kerb"], (50, 0.6)):
        call(run, "--image-ids", "3", "--page", look, "--classes", *names)
        index = json.loads(re.search(r'id="index">(.*?)</script>', look.read_text(), re.S)[1])
        (image,) = index["images"]
        assert sum(entry[2] >= 0.6 for entry in image["d"]) == scores[0]
        assert (len(image["d"]), image["d"][-1][2], image["more"]) == (50, scores[1], 101)


def test_files_of_the_users_are_kept_and_own_ones_replaced(run, monkeypatch):
    save(run, predictions())
    monkeypatch.setattr(page, "MOST_EMBEDDED", 0)
    outputs = ("--page", run / "look.html"), ("--output", run / "mine")
    for options in outputs:
        call(run, *options)
        written = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        call(run, *options)  # own files are replaced
        assert all(path.read_bytes() == of for path, of in written.items())
    (picture, *_), (beside, *_) = (sorted((run / f).iterdir()) for f in ("mine", "look_files"))
    assert cv2.imread(str(picture)) is not None
    assert cv2.imread(str(beside)) is not None
    for options, path in (
        (outputs[1], picture),
        (outputs[0], beside),
        (outputs[0], run / "look.html"),
    ):
        path.write_text("precious")
        with pytest.raises(SystemExit, match=f"{path} exists, and is not from .*--overwrite"):
            call(run, *options)
        assert path.read_text() == "precious"
        call(run, *options, "--overwrite")
        assert path.read_bytes() != b"precious"
    for name in ("other.png", "notes.txt"):
        (run / "mine" / name).write_text("precious")
    call(run, *outputs[1])


def test_pictures_of_earlier_calls_do_not_pass_for_those_of_this_one(run, monkeypatch, capsys):
    save(run, predictions())
    few, names = ("--image-ids", "3"), {f"{i}.png" for i in (3, 5, 12, 90)}

    def listed(folder):
        return {path.name for path in (run / folder).iterdir()}

    call(run)
    (run / "pictures/mine.png").write_text("precious")
    assert listed("pictures") == {*names, "mine.png"}
    assert "Pictures of" not in capsys.readouterr().out
    call(run, *few)
    assert listed("pictures") == {"3.png", "mine.png"}
    assert "Pictures of earlier calls: 3 were removed\n" in capsys.readouterr().out
    for options in ((), few):  # a folder that the user has named may have more purposes
        call(run, "--output", run / "o", *options)
        assert listed("o") == names
    assert "Pictures of earlier calls: 3 stay there;" in capsys.readouterr().out
    monkeypatch.setattr(page, "MOST_EMBEDDED", 0)
    call(run, "--page", run / "look.html")
    before = {path: path.read_bytes() for path in (run / "look_files").iterdir()}
    call(run, "--page", run / "look.htm", "--sort", "errors", "--num-images", "3")
    assert {path: path.read_bytes() for path in (run / "look_files").iterdir()} == before
    assert listed("look.htm_files") == {"0.jpg", "1.jpg", "2.jpg"}
    (run / "look_files/notes.jpg").write_text("precious")
    call(run, "--page", run / "look.html", *few)
    assert listed("look_files") == {"0.jpg", "notes.jpg"}
    monkeypatch.setattr(page, "MOST_EMBEDDED", 9)
    for name in ("look.html", "look.htm"):
        call(run, "--page", run / name)
    assert listed("look_files") == {"notes.jpg"}
    assert not (run / "look.htm_files").exists()


def test_images_of_equal_names_get_a_picture_each(tmp_path):
    data = content()
    names = {1: "x/a.png", 2: "a_3.png", 3: "y/a.png", 4: "A_3_3.png"}
    data["images"] = [
        {**data["images"][0], "id": i, "file_name": name} for i, name in names.items()
    ]
    data["annotations"] = [{**data["annotations"][0], "id": i, "image_id": i} for i in names]
    files = ["--annotations", write(tmp_path, data), "--images", tmp_path / "images"]
    for _ in range(2):  # own files are replaced
        call(*files, "--output", tmp_path / "out")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    # Different also where names in other cases are the same.
    assert written == ["A_3_3_4.png", "a.png", "a_3.png", "a_3_3.png"]


def test_an_id_or_name_is_one_component_of_the_output_folder(tmp_path):
    data = content()
    precious = tmp_path / "victim/mine.png"
    precious.parent.mkdir()
    precious.write_text("precious")
    names = {
        "cam1/0001": "cam1/0001.png",
        "cam2/0001": "cam2/0001.png",
        "x/../../../victim/mine": "cam3/0001.PNG",
        "z\\..\\victim": "cam4/0001.png",
        "n" * 300: "cam5/0001.png",
        "o" * 300: "cam6/0001.png",
        "d\tb:c?": "cam7/0001.png",
    }
    data["images"] = [
        {**data["images"][0], "id": i, "file_name": name} for i, name in names.items()
    ]
    data["annotations"] = [
        {**data["annotations"][0], "id": i, "image_id": image} for i, image in enumerate(names)
    ]
    files = ["--annotations", write(tmp_path, data), "--images", tmp_path / "images"]
    output = tmp_path / "out/p"
    for _ in range(2):  # own files are replaced
        call(*files, "--output", output, "--num-images", "9")
    assert precious.read_text() == "precious"
    entries = sorted(output.iterdir())
    assert all(path.is_file() for path in entries)
    assert {path.name for path in entries if len(path.name) < 60} == {
        "0001.png",
        "0001_cam2_0001.png",
        "0001_x_.._.._.._victim_mine.png",
        "0001_z_.._victim.png",
        "0001_d_b_c_.png",
    }
    assert len(entries) == len(names)
    entries[1].write_text("precious")
    with pytest.raises(SystemExit, match=f"{entries[1]} exists, and is not from .*--overwrite"):
        call(*files, "--output", output, "--num-images", "9")
    call(*files, "--output", output, "--num-images", "1")  # does not write that one
    (tmp_path / "images/cam1/0001.png").write_text("damaged")  # its turn is that one's
    with pytest.raises(SystemExit, match=f"{entries[1]} exists, and is not from .*--overwrite"):
        call(*files, "--output", output, "--num-images", "1")
    assert entries[1].read_text() == "precious"


def test_a_score_that_is_no_number_is_refused(capsys):
    with pytest.raises(SystemExit):
        call("run", "--min-score", "nan")
    assert "argument --min-score: must be a finite number, got nan" in capsys.readouterr().err


def test_ground_truth_alone_and_other_results_need_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ["--annotations", write(tmp_path), "--images", tmp_path / "images"]
    call(*data, "--num-images", 1)
    assert cv2.imread("pictures/3.png").shape == (48 + 28, 64, 3)
    (tmp_path / "r.json").write_text(json.dumps(predictions()))
    some = ["--train-annotations", "train.json", "--group", "r", "--classes", "drain"]
    call(*data, "--results", "r.json", "--output", "o", *some)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["12.png", "3.png", "5.png"]
    call(*data, "--results", "r.json", "--page", "p.html", "--min-score", "0.95")
    assert "the highest is 0.900: --min-score shows lower" in capsys.readouterr().out
    (tmp_path / "images/part/3.png").unlink()
    call(*data, "--output", "rest")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("left out: ")
    assert "3.png" in lines[-2]
    assert lines[-1] == "Pictures: 3 in rest"


def test_what_is_missing_or_wrong_is_one_line(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(predictions()))
    data = ["--annotations", write(tmp_path), "--images", tmp_path / "images"]
    strange = tmp_path / "strange.json"
    strange.write_text(json.dumps([{**predictions()[0], "category_id": 8}]))
    results = [*data, "--results", tmp_path / "r.json"]
    done = tmp_path / "without_config"
    (tmp_path / "x_files").symlink_to("images/part")
    kept = {path: path.read_bytes() for path in (data[1], *tmp_path.glob("images/part/*"))}
    save(done, predictions())
    for arguments, text in (
        ([*results, "--group", "f"], "no class is in group 'f', but in ['n/a']"),
        ([*results, "--classes", "kerbs"], "no class is named 'kerbs'; did you mean 'kerb'?"),
        ([*results, "--image-ids", "8"], "no image has the id '8'"),
        ([*results, "--errors", "duplicate"], "no image has an object or detection that passes"),
        ([*data, "--images", "nowhere"], "the folder of images nowhere does not exist"),
        ([*data, "--errors", "missed"], "--errors needs --results"),
        ([*data, "--results", strange], "Category id 8 of a detection is not in the annotations"),
        ([], "needs --annotations FILE and --images DIR"),
        ([tmp_path, *data], "evaluate the run first"),
        ([done], f"needs --annotations FILE and --images DIR; {done} does not give them"),
        ([done, *data[:2]], f"needs --images DIR; {done} does not give them"),
        ([tmp_path / "no"], "does not exist"),
        ([*data, "--page", data[1]], "--page must end with .html, got "),
        ([*data, "--output", tmp_path / "images/part"], "could overwrite it: choose another"),
        ([*data, "--page", tmp_path / "x.html"], "could overwrite it: choose another"),
    ):
        with pytest.raises(SystemExit) as end:
            call(*arguments)
        message = str(end.value)
        assert message.startswith("d2-seesaw draw: ")
        assert text in message
    assert {path: path.read_bytes() for path in kept} == kept


def test_names_that_matplotlibs_font_has_change_no_font():
    assert drawing._fallback_fonts("Abcéßж") == ()


def test_a_font_is_found_by_its_characters_or_its_absence_is_said(caplog, monkeypatch):
    monkeypatch.setattr(drawing, "_lacking", lambda file, text: "" if "Mono" in file else text)
    (own, found) = drawing._fallback_fonts("犬猫")
    assert own == "DejaVu Sans"
    assert "Mono" in found
    monkeypatch.setattr(drawing, "_lacking", lambda file, text: text)
    with caplog.at_level(logging.WARNING):
        assert drawing._fallback_fonts("犬猫鳥") == ()
    assert "No installed font has 3 characters" in caplog.text
