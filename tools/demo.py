"""Demo of the complete workflow on generated data: generate, train, evaluate and draw, on the CPU.

    python tools/demo.py             instance segmentation with Seesaw Loss
    python tools/demo.py --semantic  semantic segmentation, Recall Loss beside cross-entropy

Runs the commands that a user would run, and prints each of them first.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

from d2_seesaw.checkpoint.torchvision_weights import PREFIX, find_weights
from d2_seesaw.data import datasets_root
from d2_seesaw.engine import load_config

PRETRAINED, CONFIG = "quickstart/pretrained", "quickstart/seesaw"
SEMANTIC = {
    "cross-entropy": "quickstart/semantic_cross_entropy",
    "Recall Loss": "quickstart/semantic_recall",
}
SEMANTIC_SEESAW = "quickstart/semantic_seesaw"
METRICS = ("AP", "AP50", "AP75", "APr", "APc", "APf")
SEMANTIC_METRICS = ("mIoU", "mACC", "pACC", "mIoUr", "mIoUc", "mIoUf", "mACCr", "mACCc", "mACCf")
COMMAND = f"{os.path.relpath(sys.executable)} -m d2_seesaw"
OTHERS = {
    PRETRAINED: f"from scratch         {COMMAND} train --config-file {CONFIG}",
    CONFIG: f"softmax instead      {COMMAND} train --config-file quickstart/softmax",
}


def run(*arguments: str) -> None:
    """Print and run one command; if it fails, exit with its status."""
    print("\n$ python -m d2_seesaw", *arguments, flush=True)
    finished = subprocess.run([sys.executable, "-m", "d2_seesaw", *arguments])
    if finished.returncode:
        sys.exit(finished.returncode)


def train(config: str) -> tuple[Path, dict[str, float]]:
    """Train and evaluate; return the output folder and the newest value of every metric."""
    folder = Path(load_config(config).train.output_dir)
    run("train", "--config-file", config, "--restart")  # there may be an earlier demo
    metrics: dict[str, float] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        metrics |= json.loads(line)
    return folder, metrics


def row(name: str, metrics: dict[str, float], keys: list[str]) -> list[str]:
    """Return a row of the table; metrics without ground truth are missing and shown as n/a."""
    return [name, *(f"{metrics[key]:.1f}" if key in metrics else "n/a" for key in keys)]


def config_of_instances() -> str:
    """Return the config with a pretrained backbone if its weights are on this machine."""
    weights = load_config(PRETRAINED).train.init_checkpoint
    if find_weights(weights.removeprefix(PREFIX)):
        return PRETRAINED
    print(f"{weights} is not on this machine: the model is trained from scratch", flush=True)
    return CONFIG


def demo_instances() -> str:
    """Run the demo of instance segmentation; return its table and the next steps."""
    config = config_of_instances()
    run("generate", "instances")
    folder, metrics = train(config)
    run("draw", "--config-file", str(folder / "config.yaml"))
    rows = [row(task, metrics, [f"{task}/{m}" for m in METRICS]) for task in ("bbox", "segm")]
    return f"""{tabulate(rows, ["task", *METRICS], tablefmt="pipe")}

data         {datasets_root() / "quickstart"} (images, lvis_train.json, lvis_val.json)
model        {folder / "model_final.pth"}, with the full config in {folder / "config.yaml"}
predictions  {folder / "inference"} (results in LVIS format, AP of every category as CSV and JSON)
pictures     {folder / "pictures"} (ground truth left, predictions right)
losses       tensorboard --logdir {folder}

Next:
  evaluate again       {COMMAND} train --config-file {config} --eval-only \\
                           train.init_checkpoint={folder / "model_final.pth"}
  {OTHERS[config]}
  LVIS v1 on 8 GPUs    {COMMAND} train --config-file lvis_v1_seesaw --num-gpus 8
  your own project     from d2_seesaw.losses import SeesawLoss   (README.md)"""


def demo_semantic() -> str:
    """Run the demo of semantic segmentation; return its table and the next steps."""
    run("generate", "semantic")
    rows, folders = [], []
    for loss, config in SEMANTIC.items():
        folder, metrics = train(config)
        folders.append(str(folder))
        rows.append(row(loss, metrics, [f"sem_seg/{metric}" for metric in SEMANTIC_METRICS]))
    return f"""{tabulate(rows, ["loss", *SEMANTIC_METRICS], tablefmt="pipe")}

data         {datasets_root() / "semantic_quickstart"}
models       model_final.pth in {" and ".join(folders)}, with their configs in config.yaml
each class   inference/per_category_sem_seg.csv in the same folders

Next:
  Seesaw Loss   {COMMAND} train --config-file {SEMANTIC_SEESAW}
  Cityscapes    {COMMAND} train --config-file semantic/cityscapes_deeplab_r18_recall
  your data     docs/semantic.md"""


def main() -> None:
    """Run one demo and print its summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--semantic", action="store_true", help="semantic segmentation")
    semantic = parser.parse_args().semantic
    start = time.monotonic()
    summary = demo_semantic() if semantic else demo_instances()
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    title = "Mask R-CNN with Seesaw Loss, held-out images"
    note = ":"
    if semantic:
        title = "Semantic FPN, held-out scenes"
        note = (
            ". IoU and accuracy\n(recall) in percent: means over all, rare, common and frequent "
            "classes by pixels."
        )
    print(f"\n{title}, after {minutes} min {seconds} s{note}\n\n{summary}")


if __name__ == "__main__":
    main()
