"""Wheel, installed into another environment and used from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest

from tests.e2e.conftest import QUICK, ROOT

CONFIG = "quickstart/seesaw"
# Copied before the build, which leaves folders beside its sources.
SOURCES = ("d2_seesaw", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, target = ROOT / name, folder / "source" / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, ensured(target))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*pip, "--wheel-dir", folder, folder / "source"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def ensured(path):
    path.parent.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into a new environment that sees the packages of this one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, system_site_packages=True)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", wheel], check=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # Python ignores .pth files, such as the checkout's, in folders that a .pth file adds.
    (site_packages / "packages.pth").write_text(sysconfig.get_path("purelib"))
    folder = tmp_path_factory.mktemp("elsewhere")
    variables = os.environ | {"DETECTRON2_DATASETS": str(folder), "OMP_NUM_THREADS": "1"}
    variables.pop("PYTHONPATH", None)

    def run(*arguments, program=(environment / "bin/d2-seesaw",)):
        command = [*map(str, [*program, *arguments])]
        process = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return SimpleNamespace(run=run, folder=folder, python=python, site_packages=site_packages)


@pytest.mark.slow
def test_the_wheel_includes_files_that_are_not_modules(wheel):
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert b"d2-seesaw = d2_seesaw.cli:main" in archive.read(entry_points)
    configs = {f"d2_seesaw/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/**/*.py")}
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("d2_seesaw/**/*.py")}
    templates = {str(path.relative_to(ROOT)) for path in ROOT.glob("d2_seesaw/**/*.j2")}
    assert configs | modules | templates | {"d2_seesaw/py.typed"} == {
        name for name in names if name.startswith("d2_seesaw/")
    }


@pytest.mark.slow
def test_the_installed_commands_generate_train_evaluate_check_and_predict(installed):
    run, folder = installed.run, installed.folder
    where = run("-c", "import d2_seesaw; print(d2_seesaw.__file__)", program=[installed.python])
    assert Path(where.strip()).is_relative_to(installed.site_packages)
    assert "detectron2" in run("env")
    sizes = ("--train-images", 60, "--val-images", 8, "--objects", 6, 9)
    run("generate", "instances", *sizes, "--root", "quickstart")
    annotations = folder / "quickstart/lvis_val.json"
    run("check", annotations, folder / "quickstart", "--report", "check.html")
    options = [*QUICK, "train.max_iter=3", "lr_multiplier.warmup_iters=1"]
    run("train", "--config-file", CONFIG, *options, "train.output_dir=run")
    results = folder / "run/inference/lvis_instances_results.json"
    run("evaluate", results, "--dataset", "quickstart_val", "--output", "again")
    assert (folder / "again/longtail.html").is_file()
    run("report", "again", "--output", "report.html")
    image = next((folder / "quickstart").glob("**/*.[jp][pn]g"))
    predict = ("predict", "--checkpoint", "run/model_final.pth", image, "--output", "out")
    run(*predict, program=[installed.python, "-m", "d2_seesaw"])
    assert (folder / "out/results.json").is_file()
    checkpoint = "train.init_checkpoint=run/model_final.pth"
    run("train", "--eval-only", "--config-file", f"configs/{CONFIG}.py", checkpoint, *QUICK)
