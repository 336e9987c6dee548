"""Notebook of the first steps, run from its first to its last cell."""

import os
import subprocess
import sys

import pytest

from tests.support.markdown import ROOT


@pytest.mark.slow
def test_the_notebook_runs():
    pytest.importorskip("nbmake", reason="nbmake is not installed: pip install -e '.[dev]'")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "--nbmake", "--nbmake-timeout=900"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "docs/first_steps.ipynb"], check=True, cwd=ROOT, env=environment)
