"""Evidence: trains the recipes of the protocol, seed by seed, and prints the tables.

    python benchmarks/evidence/run.py --cutouts DIR --backgrounds DIR --hours 6
    python benchmarks/evidence/run.py --show

protocol.py defines data, recipes, seeds and the order of the tables. Started again, the script does
what is left: a finished run has a file in results/, and an interrupted training continues from its
last checkpoint. No run is started after --hours. docs/evidence.md shows the tables.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from protocol import RECIPES, START, START_STEPS, TABLES
from recipes import Data, Recipe
from start import (
    REGISTRATION,
    merge_categories,
    start_hash,
    write_cascade_start,
    write_start,
)
from tables import check_start, is_finished, show, write_comparison, write_result

HERE = Path(__file__).resolve().parent

_CONFIG = '''"""Config of a run of the evidence: {name}."""

from d2_seesaw.engine import load_config

_cfg = load_config({config!r})
{head}dataloader, model, train = _cfg.dataloader, _cfg.model, _cfg.train
lr_multiplier, optimizer = _cfg.lr_multiplier, _cfg.optimizer
'''
_HEAD = """from d2_seesaw.engine import load_part

_heads = load_part("common/heads/classification")
_cfg.model.roi_heads.box_predictor.update(_heads[{head!r}])
"""


def config_text(recipe: Recipe) -> str:
    """Return the config of a recipe, which takes everything from the one that it names."""
    own = HERE / "configs" / f"{recipe.config}.py"
    return _CONFIG.format(
        name=recipe.name,
        config=str(own) if own.exists() else recipe.config,
        head=_HEAD.format(head=recipe.head) if recipe.head else "",
    )


class Runner:
    """Runs of recipes below one folder, one process with one thread each."""

    def __init__(self, output: Path, cutouts: str | None, backgrounds: str | None) -> None:
        self.output = output.resolve()
        self.sources = {"cutouts": cutouts, "backgrounds": backgrounds}

    def command(
        self, arguments: list[str], log: Path, data: Data | None = None
    ) -> dict[str, float]:
        """Run a command of d2-seesaw with its output in a file; return its seconds.

        Raises:
            RuntimeError: the command failed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # Configs import this project and modules of this folder.
        paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        if data is not None:
            environment["DETECTRON2_DATASETS"] = str(self.output / "data" / data.name)
        start = time.monotonic()
        with open(log, "a") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "d2_seesaw", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"d2-seesaw {' '.join(arguments)} failed: see {log}")
        return {
            "wall_seconds": round(time.monotonic() - start, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        }

    def root(self, data: Data) -> Path:
        """Return the folder of data, under whose name the data of a quickstart are registered."""
        name = "semantic_quickstart" if data.semantic else "quickstart"
        return self.output / "data" / data.name / name

    def prepare(self, data: Data) -> None:
        """Generate data, unless they exist."""
        root = self.root(data)
        command = [part.format(**self.sources) for part in data.command]
        if "None" in command:
            raise SystemExit(f"{data.name} needs --cutouts and --backgrounds")
        self.command(["generate", *command, "--root", str(root)], root.parent.with_suffix(".log"))

    def run(self, recipe: Recipe, seed: int) -> None:
        """Train, calibrate or evaluate a recipe, unless this has been done."""
        if is_finished(recipe, seed):
            return
        folder = self.folder(recipe, seed)
        action = self._train
        if recipe.calibration or recipe.split:
            action = self._calibrate if recipe.calibration else self._evaluate
        seconds: dict[str, Any] = action(recipe, seed, folder)
        tasks = ("sem_seg",) if recipe.data.semantic else ("bbox", "segm")
        scores = {task: _metrics(folder / "inference", task) for task in tasks}
        if recipe.starts_from_detector or recipe.calibration:
            seconds["start"] = start_hash(self.start(recipe))
        write_result(recipe, seed, {**scores, **seconds, **machine_and_versions()})

    def folder(self, recipe: Recipe, seed: int) -> Path:
        """Return the output folder of a run."""
        return self.output / "runs" / f"{recipe.name}-{seed}"

    def trained(self, recipe: Recipe, seed: int) -> Path:
        """Return the folder of a run with its model; train it again if only its result is there."""
        folder = self.folder(recipe, seed)
        known = self._is_known(recipe, folder)
        if not (known and (folder / "model_final.pth").exists()):
            self._train(recipe, seed, folder)
        return folder

    def start(self, recipe: Recipe) -> Path:
        """Return the weights that a recipe starts from; train the detector if necessary."""
        detector = self._detector(recipe.start_data)
        if not recipe.stages:
            return detector
        cascade = detector.with_name(f"start_{recipe.stages}_stages.pth")
        if not cascade.exists() or cascade.stat().st_mtime < detector.stat().st_mtime:
            write_cascade_start(detector, recipe.stages, cascade)
        return cascade

    def _detector(self, data: Data) -> Path:
        folder = self.output / "start" / data.name
        weights = folder / "start.pth"
        if weights.exists():
            return weights
        folder.mkdir(parents=True, exist_ok=True)
        root = self.root(data)
        for split in ("train", "val"):
            number = merge_categories(root / f"lvis_{split}.json", folder / f"merged_{split}.json")
        head = REGISTRATION.format(folder=str(folder), image_root=str(root))
        text = _CONFIG.format(name="start", config=str(HERE / "configs" / START), head=head)
        config = folder / "config.py"
        config.write_text(text)
        overrides = {
            "model.roi_heads.num_classes": 1,
            "train.max_iter": START_STEPS,
            "train.seed": 0,
            "train.output_dir": folder / "run",
            "train.device": "cpu",
            "train.checkpointer.period": 100,
        }
        self._train_config(config, overrides, data, resume=(folder / "run").exists())
        write_start(folder / "run/model_final.pth", number, weights)
        return weights

    def _train_config(
        self, config: Path, overrides: dict[str, Any], data: Data, *, resume: bool
    ) -> dict[str, float]:
        return self.command(
            [
                *("train", "--config-file", str(config)),
                "--resume" if resume else "--restart",
                *(f"{key}={value}" for key, value in overrides.items()),
            ],
            config.with_suffix(".log"),
            data,
        )

    def _train(self, recipe: Recipe, seed: int, folder: Path) -> dict[str, Any]:
        overrides = {
            **recipe.overrides,
            "train.seed": seed,
            "train.output_dir": folder,
            "train.device": "cpu",
            "train.checkpointer.period": 100,
        }
        if recipe.starts_from_detector:
            overrides["train.init_checkpoint"] = self.start(recipe)
            overrides["train.allow_partial_checkpoint"] = True
        if recipe.of:
            first = self.trained(RECIPES[recipe.of], seed)
            overrides["train.init_checkpoint"] = first / "model_final.pth"
        path = self.output / "configs" / f"{folder.name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config_text(recipe))
        # Another protocol's run of this name is moved aside.
        known = self._is_known(recipe, folder)
        path.with_suffix(".fingerprint").write_text(recipe.fingerprint())
        seconds = self._train_config(path, overrides, recipe.data, resume=known)
        return {**seconds, "resumed": known}

    def _is_known(self, recipe: Recipe, folder: Path) -> bool:
        of = self.output / "configs" / f"{folder.name}.fingerprint"
        return of.exists() and of.read_text() == recipe.fingerprint()

    def _evaluate(self, recipe: Recipe, seed: int, folder: Path) -> dict[str, float]:
        trained = self.trained(RECIPES[recipe.of], seed)
        dataset = f"{self.root(recipe.data).name}_{recipe.split}"
        return self.command(
            [
                *("train", "--config-file", str(trained / "config.yaml"), "--eval-only"),
                f"train.init_checkpoint={trained / 'model_final.pth'}",
                f"dataloader.test.dataset.names={dataset}",
                f"train.output_dir={folder}",
            ],
            self.output / "configs" / f"{folder.name}.log",
            recipe.data,
        )

    def _calibrate(self, recipe: Recipe, seed: int, folder: Path) -> dict[str, float]:
        trained = self.trained(RECIPES[recipe.of], seed)
        model = self.output / "configs" / f"{folder.name}.pth"
        log = model.with_suffix(".log")
        config = ["--config-file", str(trained / "config.yaml")]
        seconds = self.command(
            [
                *("calibrate", str(trained / "model_final.pth"), "--method", recipe.calibration),
                *("--output", str(model), "--overwrite", "--device", "cpu", "--fraction", "0.5"),
                *config,
            ],
            log,
            recipe.data,
        )
        overrides = [f"train.init_checkpoint={model}", f"train.output_dir={folder}"]
        self.command(["train", *config, "--eval-only", *overrides], log, recipe.data)
        model.unlink()
        return seconds


def _metrics(folder: Path, task: str) -> dict[str, float]:
    if task == "sem_seg":
        return json.loads((folder / f"metrics_{task}.json").read_text())
    return json.loads((folder / f"longtail_{task}.json").read_text())["metrics"]


def machine_and_versions() -> dict[str, Any]:
    """Return what a result depends on beside the protocol."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    return {
        "processor": models[0] if models else platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
    }


def main() -> None:
    """Do the runs that are left, table by table, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/evidence"), help="folder of data and runs")
    add("--cutouts", help="folder of pictures with alpha, see docs/cutouts.md")
    add("--backgrounds", help="folder of photographs")
    add("--tables", nargs="+", choices=[table.name for table in TABLES], help="default: all")
    add("--hours", type=float, default=6.0, help="start no run after this time")
    add("--jobs", type=int, default=1, help="runs at a time, each on one core")
    add("--show", action="store_true", help="only print the tables of the finished runs")
    args = parser.parse_args()
    chosen = [table for table in TABLES if not args.tables or table.name in args.tables]
    if not args.show:
        runner = Runner(args.output, args.cutouts, args.backgrounds)
        end = time.monotonic() + 3600 * args.hours
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for table in chosen:
                _run_table(runner, table, pool, end)
        for table in chosen:
            annotations = runner.root(table.baseline.data) / "lvis_val.json"
            write_comparison(table, runner.output, annotations)
    print("\n\n".join(show(table) for table in chosen))


def _run_table(runner: Runner, table: Any, pool: concurrent.futures.Executor, end: float) -> None:
    if time.monotonic() >= end:  # neither data nor the weights to start from are prepared in vain
        return
    left = [r for r in table.recipes if not all(is_finished(r, seed) for seed in table.seeds)]
    for data in dict.fromkeys(recipe.data for recipe in left):
        runner.prepare(data)
    for recipe in left:
        if recipe.starts_from_detector:
            runner.prepare(recipe.start_data)
            check_start(table, start_hash(runner.start(recipe)))

    own = [[recipe] for recipe in table.recipes if not recipe.of]
    # Recipes that use the models of others wait for those, and train one that is missing: for a
    # seed they are run one after the other, so that no model is trained twice.
    dependent = [[recipe for recipe in table.recipes if recipe.of]]
    for groups in (own, dependent):
        runs = [
            pool.submit(_run_group, runner, group, seed, end)
            for seed in table.seeds
            for group in groups
        ]
        for future in runs:
            future.result()


def _run_group(runner: Runner, recipes: list[Recipe], seed: int, end: float) -> None:
    for recipe in recipes:
        if time.monotonic() >= end:
            return
        try:
            runner.run(recipe, seed)
        except Exception as error:  # raised again by future.result(), after the runs in between
            print(f"{recipe.name}, seed {seed}: {error!r}", file=sys.stderr, flush=True)
            raise


if __name__ == "__main__":
    main()
