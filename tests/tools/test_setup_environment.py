"""Set-up with a pip that is only recorded: what is installed, in which order, and what is kept."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

from d2_seesaw.engine import train_options

SPEC = importlib.util.spec_from_file_location("set_up", "tools/setup_environment.py")
setup_environment = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(setup_environment)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine on which the modules in ``absent`` are missing until pip has been run for them."""
    machine = SimpleNamespace(absent=set(), installed=[], folder=tmp_path / "venv")
    (machine.folder / "bin").mkdir(parents=True)
    (machine.folder / "bin" / "python").touch()

    def missing(python, modules):
        return [m for m in modules if m in machine.absent]

    def pip_install(python, *arguments, failure):
        machine.installed.append(arguments)

    monkeypatch.setattr(setup_environment, "missing", missing)
    monkeypatch.setattr(setup_environment, "pip_install", pip_install)
    arguments = ["setup", "--venv", str(machine.folder), "--detectron2", "D2"]
    monkeypatch.setattr(sys, "argv", arguments)
    return machine


def test_a_fresh_machine_gets_torch_before_detectron2_and_the_project_last(machine):
    machine.absent = {*setup_environment.PACKAGES, "pkg_resources", "detectron2", "d2_seesaw"}
    setup_environment.main()
    names = [arguments[-1] for arguments in machine.installed]
    assert names.index("torch") < names.index("D2") < names.index(".")
    assert set(setup_environment.PACKAGES.values()) < set(names)
    (detectron2,) = [a for a in machine.installed if a[-1] == "D2"]
    assert "--no-build-isolation" in detectron2
    (build,) = [a for a in machine.installed if "setuptools<81" in a]
    assert machine.installed.index(build) < machine.installed.index(detectron2)


def test_what_is_there_is_kept(machine):
    (machine.folder / ".ready").touch()
    setup_environment.main()
    assert machine.installed == []


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Cloning\n  fatal: unable to access 'https://x'\nERROR: exit 128\nnote: x", "fatal: un"),
        ("ERROR: No matching distribution found\n", "ERROR: No matching"),
        ("", "no message"),
    ],
)
def test_the_reason_is_one_line_of_pips(output, expected):
    assert setup_environment.reason(output).startswith(expected)


def test_a_failure_ends_with_one_line(tmp_path, monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="long\ntraceback\nERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(SystemExit, match=r"^setup: cannot install x \(pip: ERROR: no network\)$"):
        setup_environment.pip_install(tmp_path, "x", failure="cannot install x")


def test_missing_modules_are_found_by_asking_that_python():
    found = setup_environment.missing(Path(sys.executable), ["torch", "no_such_module"])
    assert found == ["no_such_module"]


@pytest.fixture
def metadata(monkeypatch):
    """What setup.py says about the project."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path("setup.py")
    return given


def test_setting_up_installs_what_developing_needs(metadata):
    extras = metadata["extras_require"]
    names = {name.split(">")[0] for name in [*extras["dev"], *extras["timm"]]}
    assert names <= set(setup_environment.PACKAGES.values())


def test_every_tracker_is_an_extra_and_nothing_that_must_be_there(metadata):
    for name in ("wandb", "mlflow"):
        assert "enabled" in train_options()[name]
        assert metadata["extras_require"][name] == [name]
        assert name not in metadata["install_requires"]
        assert name not in setup_environment.PACKAGES
