import importlib.util
import json
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.data import own_data

SPEC = importlib.util.spec_from_file_location("check_dataset", Path("tools/check_dataset.py"))
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

NAME = "tests_check_dataset_own"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        tool.main()
    return ended.value.code


@pytest.fixture
def json_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own_data.write(tmp_path)


def test_a_sound_data_set_ends_with_0_and_a_broken_one_with_1(
    json_file, tmp_path, monkeypatch, capsys
):
    assert run(monkeypatch, json_file, tmp_path / "images") == 0
    assert "nothing wrong" in capsys.readouterr().out
    (tmp_path / "images/part/3.png").unlink()
    assert run(monkeypatch, json_file, tmp_path / "images", "--no-images") == 1
    assert "part/3.png, image 3: there is no file" in capsys.readouterr().out


def test_report_and_json_are_written_even_for_a_broken_file(json_file, tmp_path, monkeypatch):
    data = own_data.content()
    data["annotations"][0]["category_id"] = 8
    json_file = own_data.write(tmp_path, data)
    outputs = ("--report", tmp_path / "r.html", "--json", tmp_path / "r.json")
    assert run(monkeypatch, json_file, tmp_path / "images", *outputs) == 1
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["by_kind"] == {"unknown_category": 1}
    assert content["overview"]["objects"] == 6
    assert "The long tail" in (tmp_path / "r.html").read_text()


def test_a_registered_name_comes_from_a_config(json_file, tmp_path, monkeypatch):
    config, images = tmp_path / "config.py", tmp_path / "images"
    config.write_text(
        "from d2_seesaw.data import register_longtail_instances\n"
        f"register_longtail_instances({NAME!r}, {{}}, '{json_file}', '{images}')\n"
        "train = dict(output_dir='x')\n"
    )
    try:
        out = tmp_path / "r.json"
        given = ("--config-file", config, "--name", NAME, "--json", out)
        assert run(monkeypatch, *given) == 0
        assert json.loads(out.read_text())["overview"]["groups"] == {"r": 3, "c": 0, "f": 0}
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_groups_follow_the_counts_of_another_file(json_file, tmp_path, monkeypatch):
    data = own_data.content()
    data["annotations"] = data["annotations"][:1]
    val, out = own_data.write(tmp_path, data, "val.json"), tmp_path / "r.json"
    run(monkeypatch, val, tmp_path / "images", "--counts-from", json_file, "--json", out)
    counts = [c["train_images"] for c in json.loads(out.read_text())["overview"]["categories"]]
    assert counts == [3, 2, 1]


def test_counts_of_a_file_that_is_not_there_are_one_line(json_file, tmp_path, monkeypatch):
    given = (json_file, tmp_path / "images", "--counts-from", tmp_path / "none.json")
    message = run(monkeypatch, *given)
    assert message.startswith("check_dataset.py: ")
    assert "none.json" in message


def test_counts_of_other_categories_are_not_taken(json_file, tmp_path, monkeypatch, capsys):
    data = own_data.content()
    data["categories"][0]["name"] = "lamp"
    train, out = own_data.write(tmp_path, data, "train_of_lamps.json"), tmp_path / "r.json"
    run(monkeypatch, json_file, tmp_path / "images", "--counts-from", train, "--json", out)
    assert "no overview: category 1000 is 'hydrant' in " in capsys.readouterr().out
    assert json.loads(out.read_text())["overview"] is None


def test_what_cannot_be_started_is_one_line(tmp_path, monkeypatch):
    assert run(monkeypatch, tmp_path / "none.json", tmp_path).startswith("check_dataset.py: ")
    assert "or --name" in run(monkeypatch)
