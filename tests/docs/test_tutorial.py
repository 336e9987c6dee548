"""The commands of the tutorial, run one after the other on small data."""

import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from d2_seesaw.checkpoint.torchvision_weights import find_weights
from tests.support.markdown import ROOT, commands
from tests.synthetic.cutouts.conftest import ellipse, save

SHORTER = {"train.max_iter=300": "train.max_iter=40"}
FEWER = ["--train-images", "60", "--val-images", "24"]
FOLDERS = [f"animals/kind_{number}" for number in range(12)]


@pytest.fixture
def folder(tmp_path):
    """Return a folder with pictures where the tutorial has them."""
    rng = np.random.default_rng(0)
    cutouts = tmp_path / "pictures/usr/share/tuxpaint/stamps"
    for name in (*FOLDERS, "symbols", "animals/cartoon"):
        for number in range(3):
            color = tuple(int(value) for value in rng.integers(0, 256, 3))
            save(cutouts / name / f"{number}.png", ellipse(color, (40 + number, 30)))
    for number in range(4):
        pixels = rng.integers(80, 100, (150, 220, 3)).astype(np.uint8)
        save(tmp_path / f"pictures/usr/share/backgrounds/gnome/{number}.png", pixels)
    return tmp_path


@pytest.mark.slow
def test_the_six_commands_of_the_tutorial_run_as_they_stand(folder):
    if find_weights("mobilenet_v2") is None:
        pytest.skip("needs the weights that make setup installs")
    given = commands(ROOT / "docs/tutorial.md")
    assert [words[1] for words in given] == [
        *("generate", "train", "train", "report", "draw", "predict"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for words in given:
        arguments = [SHORTER.get(word, word) for word in words[1:]]
        arguments += FEWER if words[1] == "generate" else []
        done = subprocess.run(
            [sys.executable, "-m", "d2_seesaw", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{shlex.join(arguments)}: {done.stdout[-900:]}{done.stderr}"
    output = folder / "output/stamps"
    assert "APr" in (output / "comparison/comparison.html").read_text()
    assert (output / "look.html").stat().st_size > 10_000
    assert len(list((output / "predictions").rglob("*.jpg"))) == 24
