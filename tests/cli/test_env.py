"""`d2-seesaw env`: the table of versions, and warnings about untested ones."""

import subprocess
import sys

import pytest

from d2_seesaw.cli import env
from d2_seesaw.detectron2_origin import COMMIT, COPY_LABEL, COPY_NAME, Installed

COPY = Installed(COPY_NAME, COPY_LABEL, "", "", "/x", compiled=False)
REPOSITORY = Installed("detectron2", "0.6", "https://x", COMMIT, "/x", compiled=True)
OTHER = Installed("detectron2", "0.6", "https://x", "0" * 40, "/x", compiled=True)


def test_the_table_names_versions_detectron2_and_cuda():
    run = subprocess.run([sys.executable, "-m", "d2_seesaw", "env"], capture_output=True, text=True)
    assert run.returncode == 0
    assert not run.stderr
    rows = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert rows["python"] == sys.version.split()[0]
    for name in ("torch", "torchvision", "numpy", "pillow", "lvis"):
        assert rows[name][0].isdigit()
    assert " from " in rows["detectron2"]
    assert ("compiled" in rows["detectron2"]) != ("Python only" in rows["detectron2"])
    assert rows["CUDA"].startswith("torch was built")


@pytest.mark.parametrize(
    ("version", "fits"), [("2.9.1", True), ("2.14.1+cpu", True), ("2.8.0", False), ("3.0", False)]
)
def test_untested_versions_cause_a_warning(version, fits, monkeypatch):
    monkeypatch.setitem(env.TESTED, "torch", ("2.9", "2.14"))
    warning = env.untested("torch", version)
    assert (warning is None) == fits
    assert fits or f"torch {version} is not among the tested versions, 2.9 to 2.14" in str(warning)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (COPY, None),
        (REPOSITORY, None),
        (OTHER, "not one of the tested"),
        (None, "installs it"),
    ],
)
def test_another_detectron2_or_none_causes_a_warning(installed, expected):
    warnings = list(env.detectron2_warnings(installed))
    assert [expected in warning for warning in warnings] == ([True] if expected else [])


def test_a_missing_package_has_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(env, "OTHERS", ("no-such-package",))
    monkeypatch.setattr(env, "find_installed", lambda: COPY)
    assert env.main([]) == 1
    assert "missing: no-such-package" in capsys.readouterr().out
