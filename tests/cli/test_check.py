import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.cli import check
from tests.data import own_data

NAME = "tests_check_dataset_own"


def run(*arguments):
    try:
        return check.main([*map(str, arguments)])
    except SystemExit as end:
        return end.code


@pytest.fixture
def json_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own_data.write(tmp_path)


def test_a_sound_data_set_ends_with_0_and_a_broken_one_with_1(json_file, tmp_path, capsys):
    assert run(json_file, tmp_path / "images") == 0
    assert "nothing wrong" in capsys.readouterr().out
    (tmp_path / "images/part/3.png").unlink()
    assert run(json_file, tmp_path / "images", "--no-images") == 1
    assert "part/3.png, image 3: there is no file" in capsys.readouterr().out


def test_report_and_json_are_written_even_for_a_broken_file(json_file, tmp_path):
    data = own_data.content()
    data["annotations"][0]["category_id"] = 8
    json_file = own_data.write(tmp_path, data)
    outputs = ("--report", tmp_path / "r.html", "--json", tmp_path / "r.json")
    assert run(json_file, tmp_path / "images", *outputs) == 1
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["by_kind"] == {"unknown_category": 1}
    assert content["overview"]["objects"] == 6
    assert "The long tail" in (tmp_path / "r.html").read_text()


def test_a_registered_name_comes_from_a_config(json_file, tmp_path):
    config, images = tmp_path / "config.py", tmp_path / "images"
    config.write_text(
        "from d2_seesaw.data import register_longtail_instances\n"
        f"register_longtail_instances({NAME!r}, {{}}, '{json_file}', '{images}')\n"
        "train = dict(output_dir='x')\n"
    )
    try:
        out = tmp_path / "r.json"
        given = ("--config-file", config, "--name", NAME, "--json", out)
        assert run(*given) == 0
        assert json.loads(out.read_text())["overview"]["groups"] == {"r": 3, "c": 0, "f": 0}
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_groups_follow_the_counts_of_another_file(json_file, tmp_path):
    data = own_data.content()
    data["annotations"] = data["annotations"][:1]
    val, out = own_data.write(tmp_path, data, "val.json"), tmp_path / "r.json"
    run(val, tmp_path / "images", "--counts-from", json_file, "--json", out)
    counts = [c["train_images"] for c in json.loads(out.read_text())["overview"]["categories"]]
    assert counts == [3, 2, 1]


def test_counts_of_a_file_that_is_not_there_are_one_line(json_file, tmp_path):
    given = (json_file, tmp_path / "images", "--counts-from", tmp_path / "none.json")
    message = run(*given)
    assert message.startswith("d2-seesaw check: ")
    assert "none.json" in message


def test_counts_of_other_categories_are_not_taken(json_file, tmp_path, capsys):
    data = own_data.content()
    data["categories"][0]["name"] = "lamp"
    train, out = own_data.write(tmp_path, data, "train_of_lamps.json"), tmp_path / "r.json"
    run(json_file, tmp_path / "images", "--counts-from", train, "--json", out)
    printed = capsys.readouterr().out
    assert f"no overview: {json_file} has other classes than {train}: only" in printed
    assert json.loads(out.read_text())["overview"] is None


def test_what_cannot_be_started_is_one_line(tmp_path):
    assert run(tmp_path / "none.json", tmp_path).startswith("d2-seesaw check: ")
    assert "or --name" in run()
