"""Comparison of all classification losses and calibrations: one budget, several seeds.

    d2-seesaw generate instances
    python benchmarks/loss_comparison.py --output output/loss_comparison
    python benchmarks/loss_comparison.py --output output/loss_comparison --table

All runs of a seed start from one detector that knows no classes: quickstart/softmax trained with
all categories merged into one, without the layers that depend on the number of classes. From there,
quickstart/softmax, quickstart/seesaw and every config in quickstart/losses are trained with the
same data, schedule and seed, and evaluated. Then the script calibrates the models of softmax and
Seesaw Loss by the methods of `d2-seesaw calibrate` and evaluates those. Finished runs are kept:
started again, the script does what is left. The table has the mean and the standard deviation over
the seeds, and the mean difference from softmax, paired by seed.
"""

import argparse
import contextlib
import json
import logging
import math
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import torch
from timing import device_name

BASELINE = "softmax"
CALIBRATED = {
    BASELINE: ("norcal", "logit-adjustment", "temperature", "tau-norm"),
    # Both of the first are the same there, and tau-norm changes no normalized classifier.
    "seesaw": ("norcal", "temperature"),
}
"""Methods of `d2-seesaw calibrate` by loss."""

METRICS = ("AP", "APr", "APc", "APf")
OF_CLASSES = ("cls_score", "bbox_pred", "cls_loss", "mask_head.predictor")
"""Parts of the names of weights whose shape depends on the number of classes."""

_MERGED = """
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.engine import load_config

register_longtail_instances("merged", json_file={json_file!r}, image_root={image_root!r})
_cfg = load_config("quickstart/softmax", ["model.roi_heads.num_classes=1"])
dataloader, model, train, tta = _cfg.dataloader, _cfg.model, _cfg.train, _cfg.tta
lr_multiplier, optimizer = _cfg.lr_multiplier, _cfg.optimizer
dataloader.train.dataset.names = dataloader.test.dataset.names = "merged"
"""
_PRELOADED = ["d2_seesaw.cli.train", "d2_seesaw.cli.train.training", "d2_seesaw.cli.calibrate"]


def configs() -> dict[str, str]:
    """Return the config of each loss by its name."""
    from d2_seesaw.engine.config_files import config_folder

    others = sorted((config_folder() / "quickstart/losses").glob("[a-z]*.py"))
    return {name: f"quickstart/{name}" for name in (BASELINE, "seesaw")} | {
        path.stem: f"quickstart/losses/{path.stem}" for path in others
    }


def _command(arguments: list[str], log: str) -> None:
    """Run a command of d2-seesaw in this process, with its output in a file."""
    from d2_seesaw.cli import main

    with open(log, "a") as file, contextlib.redirect_stdout(file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        status = main(arguments)
    raise SystemExit(status)


def run(arguments: list[str], log: Path) -> float:
    """Run a command in a process that starts with all packages; return the seconds.

    Raises:
        RuntimeError: the command failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    process = multiprocessing.get_context("forkserver").Process(
        target=_command, args=(arguments, str(log))
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"d2-seesaw {' '.join(arguments)} failed: see {log}")
    return time.monotonic() - start


def pretrain(seed: int, args: argparse.Namespace) -> Path:
    """Return the weights of the detector without classes; train it if this has not been done."""
    folder = args.output / f"without_classes_{seed}"
    weights = folder / "weights.pth"
    if weights.exists():
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).resolve() / "quickstart"
    data = json.loads((root / "lvis_train.json").read_text())
    category = {**data["categories"][0], "id": 1, "name": "object", "synset": "object.n.01"}
    for image in data["images"]:
        image["neg_category_ids"] = image["not_exhaustive_category_ids"] = []
    for annotation in data["annotations"]:
        annotation["category_id"] = 1
    (folder / "merged.json").write_text(json.dumps({**data, "categories": [category]}))
    config = folder / "merged.py"
    text = _MERGED.format(json_file=str(folder.resolve() / "merged.json"), image_root=str(root))
    config.write_text(text)
    run(
        [
            *("train", "--config-file", str(config), "--restart"),
            *_options(folder / "run", seed, args.pretraining_steps, 8, args.device),
        ],
        folder.with_suffix(".log"),
    )
    state = torch.load(folder / "run/model_final.pth", weights_only=True)["model"]
    kept = {k: v for k, v in state.items() if not any(part in k for part in OF_CLASSES)}
    torch.save({"model": kept}, weights)
    return weights


def _options(folder: Path, seed: int, steps: int, batch_size: int, device: str) -> list[str]:
    overrides = {
        "train.output_dir": folder,
        "train.seed": seed,
        "train.max_iter": steps,
        "train.device": device,
        "train.checkpointer.period": steps,
        "train.eval_period": 0,
        "dataloader.train.total_batch_size": batch_size,
    }
    return [f"{key}={value}" for key, value in overrides.items()]


def train(name: str, config: str, seed: int, args: argparse.Namespace) -> Path:
    """Train and evaluate a loss, unless this has been done; return its folder."""
    folder = args.output / f"{name}_{seed}"
    if not (folder / "scores.json").exists():
        seconds = run(
            [
                *("train", "--config-file", config, "--restart"),
                *_options(folder, seed, args.steps, args.batch_size, args.device),
                f"train.init_checkpoint={pretrain(seed, args)}",
                "train.allow_partial_checkpoint=true",
            ],
            folder.with_suffix(".log"),
        )
        _keep_scores(folder, folder, seconds)
    return folder


def calibrate(method: str, folder: Path, args: argparse.Namespace) -> Path:
    """Calibrate a trained model and evaluate it; return the folder of the evaluation."""
    target = folder.with_name(f"{folder.name}_{method}")
    if not (target / "scores.json").exists():
        model, log = target.with_suffix(".pth"), target.with_suffix(".log")
        seconds = run(
            [
                *("calibrate", str(folder / "model_final.pth"), "--method", method),
                *("--output", str(model), "--overwrite", "--device", args.device),
                *("--config-file", str(folder / "config.yaml"), "--fraction", "0.5"),
            ],
            log,
        )
        run(
            [
                *("train", "--config-file", str(folder / "config.yaml"), "--eval-only"),
                *(f"train.init_checkpoint={model}", f"train.output_dir={target}"),
            ],
            log,
        )
        _keep_scores(target, target, seconds)
        model.unlink()
    return target


def _keep_scores(folder: Path, run_folder: Path, seconds: float) -> None:
    """Write the metrics of an evaluation and the seconds of the command."""
    scores = {
        task: json.loads((folder / f"inference/longtail_{task}.json").read_text())["metrics"]
        for task in ("bbox", "segm")
    }
    text = json.dumps({"seconds": round(seconds, 1), **scores}, indent=1)
    (run_folder / "scores.json").write_text(text)


def read_scores(folder: Path) -> dict[str, float]:
    """Return mask metrics and the box AP of a run, in the columns of the table."""
    scores = json.loads((folder / "scores.json").read_text())
    return {m: scores["segm"][m] for m in METRICS} | {"box AP": scores["bbox"]["AP"]}


def mean_and_deviation(values: list[float], sign: str = "") -> str:
    """Format a mean and, for several values, their standard deviation."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known:
        return "n/a"
    mean = f"{statistics.mean(known):{sign}.1f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def table(output: Path, seeds: list[int]) -> str:
    """Return the Markdown table of all finished runs, best AP first."""
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for name in [*configs(), *(f"{n} {c}" for n, methods in CALIBRATED.items() for c in methods)]:
        loss, _, calibration = name.partition(" ")
        for seed in seeds:
            folder = output / (f"{loss}_{seed}" + (f"_{calibration}" if calibration else ""))
            if (folder / "scores.json").exists():
                runs.setdefault(name.replace(" ", " + "), {})[seed] = read_scores(folder)
    columns = [*METRICS, "box AP"]
    rows = [["loss", "seeds", *columns, "AP - softmax"], ["---"] * (len(columns) + 3)]
    by_ap = sorted(runs, key=lambda n: -statistics.mean(r["AP"] for r in runs[n].values()))
    for name in by_ap:
        own, baseline = runs[name], runs.get(BASELINE, {})
        pairs = [own[s]["AP"] - baseline[s]["AP"] for s in own.keys() & baseline.keys()]
        cells = [mean_and_deviation([r[c] for r in own.values()]) for c in columns]
        rows.append([name, str(len(own)), *cells, mean_and_deviation(pairs, "+")])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Do the runs that are left, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/loss_comparison"))
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--pretraining-steps", type=int, default=300, help="of 8 images, without classes")
    add("--steps", type=int, default=200, help="training steps of every run")
    add("--batch-size", type=int, default=4, help="images of a training step")
    add("--losses", nargs="+", help="default: all")
    add("--device", default="cpu")
    add("--table", action="store_true", help="only print the table of the finished runs")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if not args.table:
        multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
        known = configs()
        for seed in args.seeds:
            for name in args.losses or known:
                folder = train(name, known[name], seed, args)
                print(folder.name, read_scores(folder), flush=True)
                for method in CALIBRATED.get(name, ()):
                    target = calibrate(method, folder, args)
                    print(target.name, read_scores(target), flush=True)
    print(f"\n{device_name(args.device)}\n\n{table(args.output, args.seeds)}")


if __name__ == "__main__":
    main()
