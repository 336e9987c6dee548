"""Tests of the lookup of configs by path or by the name of a shipped one."""

from pathlib import Path

import pytest

from d2_seesaw.engine import load_config
from d2_seesaw.engine.config_files import config_folder, find_config

SHIPPED = Path("configs").resolve()


def test_every_shipped_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in SHIPPED.rglob("*.py"):
        name = path.relative_to(SHIPPED)
        for given in (name, name.with_suffix(""), f"configs/{name}", f"./configs/{name}", path):
            assert find_config(given).samefile(path)


def test_a_file_takes_precedence_over_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lvis_v1_seesaw.py").write_text("train = dict(output_dir='mine')")
    assert find_config("lvis_v1_seesaw.py") == Path("lvis_v1_seesaw.py")
    assert load_config("lvis_v1_seesaw.py").train.output_dir == "mine"
    assert find_config("lvis_v1_seesaw") == config_folder() / "lvis_v1_seesaw.py"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("lvis_v1_sesaw", "lvis_v1_seesaw"),
        ("configs/lvis_v1_sesaw.py", "configs/lvis_v1_seesaw.py"),
        ("mine/cnfig.py", "mine/config.py"),
        ("/configs/lvis_v1_seesaw", "configs/lvis_v1_seesaw.py"),
    ],
)
def test_an_unknown_name_suggests_the_closest(given, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.py").touch()
    with pytest.raises(FileNotFoundError) as error:
        find_config(given)
    assert str(error.value) == f"config file {given!r} does not exist; did you mean {hint!r}?"


def test_a_name_unlike_all_others_gets_no_suggestion():
    with pytest.raises(FileNotFoundError, match=r"'qqqqqqqq\.yaml' does not exist$"):
        find_config("qqqqqqqq.yaml")


def test_a_folder_is_not_accepted_as_a_config():
    with pytest.raises(FileNotFoundError, match="config file 'semantic' does not exist"):
        find_config("semantic")
