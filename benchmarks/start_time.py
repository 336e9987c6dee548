"""Time to the first training step, and of the second start on large data.

    python benchmarks/start_time.py
    python benchmarks/start_time.py --checkout ../earlier --annotations 1270141 --rounds 3

*Imports* is a process that only imports torch, torchvision and detectron2.engine. *First step* is
train_net.py with the quickstart on generated data, until its first step has ended. *Training data*
is a process that builds the training loader of configs/lvis_v1_seesaw.py on an annotation file that
was read before, without the time of its imports; its images are empty files. Every run is a process
of its own with one thread, and all candidates take turns. Seconds are processor time, children
included: median and quartiles over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from longtail_json import write_longtail_json

HERE = Path(__file__).resolve().parents[1]

_IMPORTS = "import torch, torchvision, detectron2.engine"
_CONFIG = """
import os

from detectron2.engine.train_loop import TrainerBase

from d2_seesaw.engine import load_config

_cfg = load_config({config!r})
dataloader, lr_multiplier, model = _cfg.dataloader, _cfg.lr_multiplier, _cfg.model
optimizer, train = _cfg.optimizer, _cfg.train
TrainerBase.after_step = lambda self: os._exit(0)
"""
_LOADER = """
import sys, time
from detectron2.config import instantiate
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.engine import load_config
register_longtail_instances("large", {}, sys.argv[1], sys.argv[2])
names = [f"dataloader.{split}.dataset.names=large" for split in ("train", "test")]
cfg = load_config(sys.argv[3], names)
start = time.process_time()
instantiate(cfg.dataloader.train)
print(time.process_time() - start)
"""


def seconds(arguments: list[str], checkout: Path, datasets: Path) -> float:
    """Return the processor time of a Python process that imports this project from a checkout."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")]),
        "DETECTRON2_DATASETS": str(datasets),
        "XDG_CACHE_HOME": str(datasets / f"cache_{checkout.name}"),
        "OMP_NUM_THREADS": "1",
    }
    log = datasets / "log.txt"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=datasets,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments} failed:\n{output}\n{log.read_text()}")
    if arguments[0] == "-c" and arguments[1] == _LOADER:
        return float(output.splitlines()[-1])
    return usage.ru_utime + usage.ru_stime


def _large_data(folder: Path, annotations: int) -> Path:
    path = folder / "large.json"
    write_longtail_json(path, annotations)
    (folder / "train2017").mkdir()
    for image in json.loads(path.read_bytes())["images"]:
        (folder / "train2017" / Path(image["coco_url"]).name).touch()
    return path


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkout", type=Path, nargs="*", default=[], help="other checkouts of this project")
    add("--annotations", type=int, default=0, help="size of the large data; 0 leaves them out")
    add("--rounds", type=int, default=5)
    args = parser.parse_args()
    checkouts = [HERE, *(path.resolve() for path in args.checkout)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate = ["-m", "d2_seesaw", "generate", "instances"]
        sizes = ["--train-images", "400", "--val-images", "100"]
        seconds([*generate, "--root", str(folder / "quickstart"), *sizes], HERE, folder)
        runs = {("imports", HERE): ["-c", _IMPORTS]}
        for checkout in checkouts:
            config = folder / f"config_{checkout.name}.py"
            names = ("quickstart/seesaw.py", "quickstart.py")  # the second one is an earlier name
            places = [checkout / "configs" / name for name in names]
            quickstart = next(place for place in places if place.exists())
            config.write_text(_CONFIG.format(config=str(quickstart)))
            train = [str(checkout / "train_net.py"), "--config-file", str(config)]
            output = f"train.output_dir={folder / checkout.name}"
            runs["first step", checkout] = [*train, output, "train.device=cpu"]
        if args.annotations:
            path = _large_data(folder, args.annotations)
            for checkout in checkouts:
                runs["training data", checkout] = [
                    *("-c", _LOADER, str(path), str(folder)),
                    str(checkout / "configs/lvis_v1_seesaw.py"),
                ]
                seconds(runs["training data", checkout], checkout, folder)  # the first start
        found: dict[tuple[str, Path], list[float]] = {run: [] for run in runs}
        for _ in range(args.rounds):
            for run, arguments in runs.items():
                found[run].append(seconds(arguments, run[1], folder))
    imports = statistics.median(found["imports", HERE])
    print("| what | checkout | seconds | / imports |\n|---|---|---|---|")
    for (what, checkout), times in found.items():
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        ratio = f"{middle / imports:.2f}"
        print(f"| {what} | {checkout.name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {ratio} |")


if __name__ == "__main__":
    main()
