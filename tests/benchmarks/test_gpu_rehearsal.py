"""The tests of tests/gpu run without a GPU too, so that they are right when one is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests run on the GPU")
def test_every_test_for_a_gpu_passes_with_the_cpu_in_its_place():
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"D2_SEESAW_TEST_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command.append(str(ROOT / "tests" / "gpu"))
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
