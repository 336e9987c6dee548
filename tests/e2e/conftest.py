"""Fixtures: a small generated dataset, and train_net.py as a user calls it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import DEMO_PROFILE

ROOT = Path(__file__).parents[2]
QUICK = [
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.log_period=1",
    "train.seed=3",
]


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Generate a small quickstart dataset; return the folder for DETECTRON2_DATASETS."""
    folder = tmp_path_factory.mktemp("datasets")
    tail = replace(DEMO_PROFILE, full_scale_images=1000)  # a tenth of the demo's counts
    spec = LongTailSpec(num_train_images=120, num_val_images=24, min_val_images=2, profile=tail)
    generate_longtail_dataset(folder / "quickstart", spec, progress=False)
    return folder


@pytest.fixture(scope="session")
def train_net(datasets):
    """Return a function that runs train_net.py and returns its output and metrics."""

    def run(output, *arguments, config="configs/quickstart.py", launcher=(), fails=False):
        command = [
            sys.executable, *launcher, "train_net.py", "--config-file", config,
            *(a for a in arguments if a.startswith("--")),
            f"train.output_dir={output}", *QUICK, *(a for a in arguments if not a.startswith("--")),
        ]  # fmt: skip
        # One thread: on busy cores, several threads mostly wait for each other.
        variables = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
        process = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300
        )
        text = process.stdout + process.stderr
        assert (process.returncode != 0) == fails, text
        return SimpleNamespace(text=text, metrics=_metrics(Path(output) / "metrics.json"))

    return run


def _metrics(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="session")
def printed_table():
    """Return a function that extracts the rows of the final table, as text by task."""

    def rows(text):
        final = text[text.rindex("Long-tail results:") :]
        return {
            task: re.findall(rf"\|\s*{task}\s*\|(.*)\|", final)[-1] for task in ("bbox", "segm")
        }

    return rows
