"""Fixtures: a small generated dataset, and train_net.py as a user calls it."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.cli import main
from d2_seesaw.data.quickstart import (
    register_classification_quickstart,
    register_quickstart,
    register_semantic_quickstart,
)
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import DEMO_PROFILE
from tests.support.loggers import loggers_kept

ROOT = Path(__file__).parents[2]
QUICKSTART = "configs/quickstart/seesaw.py"
QUICK = [
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.train.total_batch_size=4",
    "train.log_period=1",
    "train.seed=3",
]


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Generate a small quickstart dataset; return the folder for DETECTRON2_DATASETS."""
    folder = tmp_path_factory.mktemp("datasets")
    tail = replace(DEMO_PROFILE, full_scale_images=1000)  # a tenth of the demo's counts
    spec = LongTailSpec(num_train_images=120, num_val_images=12, min_val_images=2, profile=tail)
    generate_longtail_dataset(folder / "quickstart", spec, progress=False)
    return folder


@pytest.fixture(scope="session")
def train_net(datasets):
    """Return a function that runs train_net.py and returns its output and metrics.

    It runs in this process, which has imported everything, unless ``launcher``, several ranks or
    ``apart`` require processes of their own. Drawing the HTML report takes longer than a small
    evaluation, so it is drawn only with ``report``.
    """

    def run(
        output,
        *arguments,
        config=QUICKSTART,
        launcher=(),
        apart=False,
        fails=False,
        report=False,
    ):
        flags = [a for a in arguments if a.startswith("--")]
        options = [a for a in arguments if not a.startswith("--")]
        has_no_report = "semantic" in config or "classification" in config
        command = [
            *("--config-file", config, *flags),
            *(f"train.output_dir={output}", *QUICK, *options),
            *([] if report or has_no_report else ["dataloader.evaluator.report=null"]),
        ]
        apart = apart or launcher or any(flag.startswith("--num-gpus") for flag in flags)
        call = _call_apart if apart else _call_here
        failed, text = call(command, datasets, launcher)
        assert failed == fails, text
        return SimpleNamespace(text=text, metrics=_metrics(Path(output) / "metrics.json"))

    return run


def _call_apart(command, datasets, launcher):
    # One thread, because more threads only wait for each other while the cores are busy.
    variables = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, *launcher, "train_net.py", *command],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.returncode != 0, process.stdout + process.stderr


def _call_here(command, datasets, launcher):
    """Run train_net.py in this process, and restore the state of the process."""
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        loggers_kept(),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        patch.setenv("DETECTRON2_DATASETS", str(datasets))
        _register_again()
        try:
            failed = main(["train", *command]) != 0
        except SystemExit as end:
            failed = end.code not in (None, 0)
            output.write(f"{end.code}\n" if failed else "")
        except Exception:
            failed = True
            output.write(traceback.format_exc())
        finally:
            torch._dynamo.reset()
    return failed, output.getvalue()


def _register_again():
    """Register the generated datasets in the folder that the environment now names."""
    for name in [n for n in DatasetCatalog.list() if "quickstart_" in n]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_quickstart()
    register_semantic_quickstart()
    register_classification_quickstart()


def _metrics(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="session")
def printed_table():
    """Return a function that extracts the final rows of AP and AR, joined, as text by task."""

    def rows(text):
        final = text[text.rindex("Long-tail results:") :]
        return {
            task: "|".join(re.findall(rf"\|\s*{task}\s*\|(.*)\|", final))
            for task in ("bbox", "segm")
        }

    return rows
