"""The main job from one command: generate data, train, evaluate, draw, and say what to do next.

    python tools/demo.py

Calls the same command lines a user would; each is printed before it runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

from d2_seesaw.data import datasets_root

CONFIG = "configs/quickstart/seesaw.py"
RUN = Path("output/quickstart/seesaw")
METRICS = ("AP", "AP50", "AP75", "APr", "APc", "APf")


def run(*command: str) -> None:
    """Print and run one step with this Python; a step that fails ends the demo with its code."""
    print("\n$ python", " ".join(command), flush=True)
    finished = subprocess.run([sys.executable, *command])
    if finished.returncode:
        sys.exit(finished.returncode)


def last_metrics(path: Path) -> dict[str, float]:
    """The newest value of every metric that training has written."""
    metrics: dict[str, float] = {}
    for line in path.read_text().splitlines():
        metrics |= json.loads(line)
    return metrics


def score(metrics: dict[str, float], name: str) -> str:
    """One decimal, or ``n/a`` for what has no ground truth and so was not written."""
    return f"{metrics[name]:.1f}" if name in metrics else "n/a"


def main() -> None:
    """Run the steps and summarise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()  # --help and mistakes start nothing
    start = time.monotonic()
    run("tools/generate_longtail.py")
    metrics_file = RUN / "metrics.json"
    # Training appends to it; the numbers of an earlier demo are not those of this one.
    metrics_file.unlink(missing_ok=True)
    run("train_net.py", "--config-file", CONFIG)
    run("tools/draw_predictions.py", "--config-file", str(RUN / "config.yaml"))
    metrics = last_metrics(metrics_file)
    rows = [[task, *(score(metrics, f"{task}/{m}") for m in METRICS)] for task in ("bbox", "segm")]
    python = os.path.relpath(sys.executable)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(
        f"\nMask R-CNN with Seesaw Loss, held-out images, after {minutes} min {seconds} s:\n\n"
        + tabulate(rows, ["task", *METRICS], tablefmt="pipe")
        + f"""

data         {datasets_root() / "quickstart"} (images, lvis_train.json, lvis_val.json)
model        {RUN / "model_final.pth"}, with the full config in {RUN / "config.yaml"}
predictions  {RUN / "inference"} (results in LVIS format, AP of every category as CSV and JSON)
pictures     {RUN / "pictures"} (ground truth left, predictions right)
losses       tensorboard --logdir {RUN}

Next:
  evaluate again       {python} train_net.py --config-file {CONFIG} --eval-only \\
                           train.init_checkpoint={RUN / "model_final.pth"}
  softmax instead      {python} train_net.py --config-file configs/quickstart/softmax.py
  LVIS v1 on 8 GPUs    {python} train_net.py --config-file configs/lvis_v1_seesaw.py --num-gpus 8
  your own project     from d2_seesaw.losses import SeesawLoss   (README.md)"""
    )


if __name__ == "__main__":
    main()
