"""AP with the choices of `d2-seesaw train --data` and with fixed values, on five datasets.

    python benchmarks/own_data_ap.py --cutouts DIR --backgrounds DIR --output DIR
    python benchmarks/own_data_ap.py --output DIR --show

Each dataset is trained twice from ImageNet's MobileNetV2: with everything that the command chooses,
and with the values of own_data/cpu, of which only the classes and the absence of masks follow the
data. The fixed values get as many steps as take the processor time of the chosen ones: that of a
step is measured first, from two short trainings. AP is that of the last step. Started again, the
script does what is left.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from tabulate import tabulate

from d2_seesaw.own_data.config_file import OwnData, config_text
from d2_seesaw.own_data.recipes import CPU, Choice

TIMED_STEPS = (5, 55)
# The last step is evaluated, so that nothing is chosen on the split that is reported.
ALL_STEPS = ("train.eval_period=0", "train.early_stopping.metric=null")


@dataclass(frozen=True)
class Kind:
    """A dataset.

    Attributes:
        command: of ``d2-seesaw generate``.
        flatten: factor by which the height of the cut-outs is divided first.
        has_masks: whether the objects keep their masks.
        is_federated: whether the files keep the fields that say which categories of an image are
            labeled; without them every image counts as fully labeled.
    """

    command: Sequence[str]
    flatten: int = 1
    has_masks: bool = True
    is_federated: bool = True


_CUTOUTS = (
    *("cutouts", "--cutouts", "{cutouts}", "--backgrounds", "{backgrounds}"),
    *("--exclude", "symbols/*", "--exclude", "*/cartoon/*"),
)
_TOPICS = (*_CUTOUTS, "--category-depth", "1")

KINDS = {
    "shapes of 144 pixels": Kind(
        ("instances", "--train-images", "400", "--val-images", "150"),
    ),
    "small objects in large images": Kind(
        (
            *(*_TOPICS, "--image-size", "480", "640", "--objects", "6", "12"),
            *("--scale", "0.04", "0.12", "--train-images", "200", "--val-images", "60"),
        ),
    ),
    "elongated boxes without masks": Kind(
        (
            *(*_TOPICS, "--image-size", "240", "426", "--rotation", "5"),
            *("--train-images", "300", "--val-images", "100"),
        ),
        flatten=5,
        has_masks=False,
    ),
    "60 images": Kind(
        (
            *(*_TOPICS, "--image-size", "240", "320", "--profile", "demo"),
            *("--train-images", "60", "--val-images", "150", "--not-exhaustive", "0"),
        ),
        is_federated=False,
    ),
    "long tail of 55 categories": Kind(
        (*_CUTOUTS, "--image-size", "192", "256", "--train-images", "400", "--val-images", "200"),
    ),
}


def flattened(pictures: Path, folder: Path, factor: int) -> Path:
    """Write pictures with transparency with a fraction of their height; return their folder."""
    for path in sorted(pictures.rglob("*.png")):
        target = folder / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is not None:
            flat = cv2.resize(picture, None, fx=1, fy=1 / factor, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(target), flat)
    return folder


def run(arguments: Sequence[str], log: Path) -> float:
    """Run d2-seesaw with one thread; return the seconds of the processor.

    Raises:
        SystemExit: the command failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        command = [sys.executable, "-m", "d2_seesaw", *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"d2-seesaw {' '.join(arguments)} failed: see {log}")
    return usage.ru_utime + usage.ru_stime


def prepare(kind: Kind, folder: Path, sources: dict[str, str | None]) -> OwnData:
    """Generate a dataset, unless it exists; return its files."""
    data = OwnData(folder / "lvis_train.json", folder / "lvis_val.json", folder)
    if (folder / "complete").exists():
        return data
    shutil.rmtree(folder, ignore_errors=True)
    if kind.flatten != 1:
        pictures = Path(str(sources["cutouts"]))
        pictures = flattened(pictures, folder.with_name(f"{folder.name}_cutouts"), kind.flatten)
        sources = {**sources, "cutouts": str(pictures)}
    command = [part.format(**sources) for part in kind.command]
    run(["generate", *command, "--root", str(folder)], folder.with_suffix(".log"))
    for path in (data.train_file, data.val_file):
        path.write_text(json.dumps(without_parts(kind, json.loads(path.read_text()))))
    (folder / "complete").touch()
    return data


def without_parts(kind: Kind, content: dict[str, Any]) -> dict[str, Any]:
    """Remove the masks and the federated fields that a dataset is without, in place.

    Raises:
        ValueError: objects of an image would seem to be annotated that are not.
    """
    if not kind.has_masks:
        for annotation in content["annotations"]:
            del annotation["segmentation"]
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    if not kind.is_federated:
        for image in content["images"]:
            del image["neg_category_ids"]
            if image.pop("not_exhaustive_category_ids"):
                raise ValueError(f"image {image['id']} has objects without annotation")
    return content


def write_fixed(folder: Path, data: OwnData, *, has_masks: bool) -> Path:
    """Write the config with the fixed values."""
    classes = len(json.loads(data.train_file.read_text())["categories"])
    settings = {"model.roi_heads.num_classes": classes}
    choice = Choice("classes", str(classes), "those of the data", settings)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own_data.py"
    path.write_text(config_text(folder, data, CPU, [choice], boxes_only=not has_masks))
    return path


def step_time(config: Path, folder: Path, log: Path) -> float:
    """Return the processor time of a step, in seconds, from the difference of two trainings.

    Start and evaluation, which both have, are not in it, and another job on the machine has little
    effect on it.
    """
    seconds = []
    for number in TIMED_STEPS:
        overrides = [f"train.max_iter={number}", f"train.output_dir={folder}", "train.device=cpu"]
        command = ["train", "--restart", "--config-file", str(config), *overrides, *ALL_STEPS]
        seconds.append(run(command, log))
    return (seconds[1] - seconds[0]) / (TIMED_STEPS[1] - TIMED_STEPS[0])


def last_metrics(folder: Path) -> tuple[int, dict[str, float]]:
    """Return the number of steps of a training and the newest value of every metric."""
    metrics: dict[str, float] = {}
    steps = 0
    for line in map(json.loads, (folder / "metrics.json").read_text().splitlines()):
        metrics |= line
        if "total_loss" in line:  # not in a line of an evaluation
            steps = line["iteration"] + 1
    return steps, metrics


def compare(name: str, data: OwnData, folder: Path, seed: int) -> dict[str, Any]:
    """Train with the chosen and with the fixed values; return metrics, steps and minutes."""
    kind = KINDS[name]
    shutil.rmtree(folder, ignore_errors=True)
    chosen, fixed = folder / "chosen", folder / "fixed"
    files = [str(data.train_file), str(data.val_file)]
    given = ["--data", *files, "--images", str(data.images), "--config-file", CPU]
    log = folder / "log.txt"
    run(["train", *given, "--output", str(chosen), "--choose-only"], log)
    configs = {
        "chosen": chosen / "own_data.py",
        "fixed": write_fixed(fixed, data, has_masks=kind.has_masks),
    }
    timed = {which: step_time(config, folder / "timed", log) for which, config in configs.items()}
    seed_and_device = [*ALL_STEPS, f"train.seed={seed}", "train.device=cpu"]
    result: dict[str, Any] = {"data": name, "seed": seed, "step_seconds": timed}
    number = 0
    for which, config in configs.items():
        overrides = seed_and_device
        if which == "fixed":
            number = round(number * timed["chosen"] / timed["fixed"])
            overrides = [*overrides, f"train.max_iter={number}"]
        seconds = run(["train", "--config-file", str(config), *overrides], log)
        number, metrics = last_metrics(config.parent)
        task = "segm" if kind.has_masks else "bbox"
        scores = {key: metrics[f"{task}/{key}"] for key in ("AP", "AP50")}
        result[which] = {"steps": number, "minutes": seconds / 60, **scores}
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    rows = []
    for name in KINDS:
        for result in (r for r in results if r["data"] == name):
            cells = [name, result["seed"]]
            for which in ("fixed", "chosen"):
                run = result[which]
                steps = f"{run['steps']:,} ({run['minutes']:.1f})"
                cells += [steps, f"{run['AP']:.1f} ({run['AP50']:.1f})"]
            rows.append(cells)
    header = ["data", "seed", "fixed: steps (minutes)", "AP (AP50)", "chosen: steps (minutes)"]
    return tabulate(rows, [*header, "AP (AP50)"], tablefmt="pipe", disable_numparse=True)


def main() -> None:
    """Do what is left and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cutouts", help="folder of tuxpaint-stamps-default")
    parser.add_argument("--backgrounds", help="folder of gnome-backgrounds")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--hours", type=float, default=24, help="start no dataset afterwards")
    parser.add_argument("--show", action="store_true", help="print the results only")
    arguments = parser.parse_args()
    sources = {"cutouts": arguments.cutouts, "backgrounds": arguments.backgrounds}
    path, start = arguments.output / "results.jsonl", time.monotonic()
    lines = path.read_text().splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    done = {(result["data"], result["seed"]) for result in results}
    wanted = [(name, seed) for seed in arguments.seeds for name in KINDS]
    for name, seed in [] if arguments.show else wanted:
        if (name, seed) in done or time.monotonic() - start > 3600 * arguments.hours:
            continue
        stem = name.replace(" ", "_")
        data = prepare(KINDS[name], arguments.output.resolve() / "data" / stem, sources)
        folder = arguments.output.resolve() / "runs" / f"{stem}-{seed}"
        results.append(compare(name, data, folder, seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(json.dumps(results[-1]) + "\n")
        print(json.dumps(results[-1]), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
