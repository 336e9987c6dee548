import json
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.cli import check
from d2_seesaw.data.annotations.rules import RULES
from tests.data import own_data

NAME = "tests_check_dataset_own"


def run(*arguments) -> Any:
    try:
        return check.main([*map(str, arguments)])
    except SystemExit as end:
        return end.code


@pytest.fixture
def json_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own_data.write(tmp_path)


def test_the_exit_status_is_0_for_a_valid_dataset_and_1_for_a_broken_one(
    json_file, tmp_path, capsys
):
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


def test_a_config_may_register_the_dataset(json_file, tmp_path):
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


def test_a_missing_file_of_counts_is_a_one_line_error(json_file, tmp_path):
    given = (json_file, tmp_path / "images", "--counts-from", tmp_path / "none.json")
    message = run(*given)
    assert message.startswith("d2-seesaw check: ")
    assert "none.json" in str(message)


def test_counts_of_other_categories_are_not_used(json_file, tmp_path, capsys):
    data = own_data.content()
    data["categories"][0]["name"] = "lamp"
    train, out = own_data.write(tmp_path, data, "train_of_lamps.json"), tmp_path / "r.json"
    run(json_file, tmp_path / "images", "--counts-from", train, "--json", out)
    printed = capsys.readouterr().out
    assert f"no overview: {json_file} has other classes than {train}: only" in printed
    assert json.loads(out.read_text())["overview"] is None


def test_missing_inputs_are_one_line_errors(tmp_path):
    assert run(tmp_path / "none.json", tmp_path).startswith("d2-seesaw check: ")
    assert "or --name" in str(run())


def test_all_rules_are_listed_in_100_columns_without_any_file(capsys):
    assert run("--list-rules") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    text = " ".join(out.split())
    for name, rule in RULES.items():
        for words in (f"{name} {rule.severity} {rule.applies_to}", rule.description, rule.fix):
            assert words in text


def test_a_mended_copy_is_written_checked_and_listed(json_file, tmp_path, capsys):
    data = own_data.content()
    for a in data["annotations"]:
        a["bbox"][2] += a["bbox"][0]
        a["bbox"][3] += a["bbox"][1]
        a["iscrowd"] = "0"
    (tmp_path / "utf16.json").write_text(json.dumps(data), encoding="utf-16")
    given = (tmp_path / "utf16.json", tmp_path / "images", "--fix", tmp_path / "mended.json")
    assert run(*given, "--json", tmp_path / "r.json") == 0
    out = capsys.readouterr().out
    assert "6 x boxes unlike their masks" in out
    assert "found: nothing wrong" in out
    assert len(json.loads((tmp_path / "r.json").read_text())["repair"]["changes"]) == 14
    assert json.loads((tmp_path / "mended.json").read_text()) == own_data.content()
    message = run(json_file, tmp_path / "images", "--fix", json_file)
    assert "must be another file" in message


def test_files_of_the_users_are_kept_and_own_ones_replaced(json_file, tmp_path):
    for option, name in (("--fix", "m.json"), ("--report", "r.html"), ("--json", "r.json")):
        given = (json_file, tmp_path / "images", option, tmp_path / name)
        (tmp_path / name).write_text("precious")
        assert f"{name} exists, and is not from an earlier run" in run(*given)
        assert (tmp_path / name).read_text() == "precious"
        assert run(*given, "--overwrite") == run(*given) == 0
        assert (tmp_path / name).read_text() != "precious"


def test_images_of_another_split_are_named(json_file, tmp_path, capsys):
    data = own_data.content()
    data["images"][0]["file_name"] = "other/12.png"
    val = own_data.write(tmp_path, data, "val.json")
    run(val, tmp_path / "images", "--duplicates", json_file)
    out = capsys.readouterr().out
    assert "warning: 4 x an image whose content another image has" in out
    assert f"image 12: the content is that of image 12 of {json_file}, part/12.png" in out
    assert f"the content is that of image 3 of {json_file}, part/3.png" in out
    run(val, tmp_path / "images", "--duplicates", json_file, tmp_path / "elsewhere")
    assert "duplicate_image" not in capsys.readouterr().out
    assert "--duplicates" in run(val, tmp_path, "--duplicates", val, tmp_path, tmp_path)


def test_other_names_than_in_training_are_an_error_without_any_report(json_file, tmp_path, capsys):
    data = own_data.content()
    data["categories"][0]["name"] = "lamp"
    train = own_data.write(tmp_path, data, "train_of_lamps.json")
    assert run(json_file, tmp_path / "images", "--counts-from", train) == 1
    out = capsys.readouterr().out
    assert "hydrant" in out
    assert "lamp" in out
    assert run(json_file, tmp_path / "images", "--counts-from", json_file) == 0


def test_a_missing_file_comes_with_where_it_is(json_file, tmp_path, capsys):
    (tmp_path / "images/part/3.png").rename(tmp_path / "images/part/3.PNG")
    assert run(json_file, tmp_path / "images", "--no-images") == 1
    assert "part/3.png; part/3.PNG exists" in capsys.readouterr().out
