"""Comparison of all classification losses and calibrations: one budget, several seeds.

    d2-seesaw generate instances
    python benchmarks/loss_comparison.py --output output/loss_comparison
    python benchmarks/loss_comparison.py --output output/loss_comparison --table

Trains quickstart/softmax, quickstart/seesaw and every config in quickstart/losses with the same
data, schedule and seeds, and evaluates them. Then it calibrates the models of softmax and Seesaw
Loss by every method of `d2-seesaw calibrate` and evaluates those. Finished runs are kept: started
again, the script does what is left. The table has the mean and the standard deviation over the
seeds, and the mean difference from softmax, paired by seed.
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

from timing import device_name

BASELINE = "softmax"
CALIBRATED = (BASELINE, "seesaw")
CALIBRATIONS = ("norcal", "logit-adjustment", "temperature", "tau-norm")
METRICS = ("AP", "APr", "APc", "APf")
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


def train(name: str, config: str, seed: int, args: argparse.Namespace) -> Path:
    """Train and evaluate a loss, or go on with an interrupted run; return its folder."""
    folder = args.output / f"{name}_{seed}"
    if not (folder / "scores.json").exists():
        resume = ["--resume"] if (folder / "last_checkpoint").exists() else []
        overrides = {
            "train.output_dir": folder,
            "train.seed": seed,
            "train.max_iter": args.steps,
            "train.device": args.device,
            "train.checkpointer.period": args.steps,
            "train.eval_period": 0,
        }
        options = [f"{key}={value}" for key, value in overrides.items()]
        seconds = run(
            ["train", "--config-file", config, *resume, *options], folder.with_suffix(".log")
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
    for name in [*configs(), *(f"{n} {c}" for n in CALIBRATED for c in CALIBRATIONS)]:
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
    add("--steps", type=int, default=200, help="training steps of every run")
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
                if name in CALIBRATED:
                    for method in CALIBRATIONS:
                        target = calibrate(method, folder, args)
                        print(target.name, read_scores(target), flush=True)
    print(f"\n{device_name(args.device)}\n\n{table(args.output, args.seeds)}")


if __name__ == "__main__":
    main()
