"""Recall Loss beside cross-entropy: generate scenes, train both, and print both results.

    python tools/demo_semantic.py

Calls the same command lines a user would; each is printed before it runs.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

from d2_seesaw.data import datasets_root

LOSSES = {"cross_entropy": "cross-entropy", "recall": "Recall Loss"}
METRICS = ("mIoU", "mACC", "pACC", "mIoUr", "mIoUc", "mIoUf", "mACCr", "mACCc", "mACCf")


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
    run("tools/generate_semantic.py")
    rows = []
    for key, name in LOSSES.items():
        folder = Path(f"output/quickstart/semantic_{key}")
        # Training appends to it; the numbers of an earlier demo are not those of this one.
        (folder / "metrics.json").unlink(missing_ok=True)
        run("train_net.py", "--config-file", f"configs/quickstart/semantic_{key}.py")
        metrics = last_metrics(folder / "metrics.json")
        rows.append([name, *(score(metrics, f"sem_seg/{metric}") for metric in METRICS)])
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(
        f"\nSemantic FPN, held-out scenes, after {minutes} min {seconds} s. IoU and accuracy\n"
        "(recall) in percent: means over all, rare, common and frequent classes by pixels.\n\n"
        + tabulate(rows, ["loss", *METRICS], tablefmt="pipe")
        + f"""

data         {datasets_root() / "semantic_quickstart"}
models       output/quickstart/semantic_*/model_final.pth, with their configs in config.yaml
each class   output/quickstart/semantic_*/inference/per_category_sem_seg.csv

Next:
  Seesaw Loss   python train_net.py --config-file configs/quickstart/semantic_seesaw.py
  Cityscapes    python train_net.py --config-file configs/semantic/cityscapes_deeplab_r18_recall.py
  your data     docs/semantic.md"""
    )


if __name__ == "__main__":
    main()
