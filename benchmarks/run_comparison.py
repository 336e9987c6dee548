"""Time and memory of `d2-seesaw report compare` on generated data of LVIS's size.

    python benchmarks/run_comparison.py
    python benchmarks/run_comparison.py --images 19809
    python benchmarks/run_comparison.py --images 19809 --tasks segm bbox

The data are those of lvis_metrics.py: 1,203 categories and 300 detections an image. The second run
has the detections of the first, with other scores and moved boxes. The command runs in a process of
its own; time and peak memory are those of the whole process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.lvis_metrics import generate
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.files import save_columns


def write_runs(folder: Path, images: int, masks: bool) -> None:
    """Write the annotations and the detections of two runs."""
    data, detections = generate(images, 300, masks)
    for category in data["categories"]:
        category["name"] = f"category {category['id']}"
    for image in data["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    (folder / "val.json").write_text(json.dumps(data))
    rng = np.random.default_rng(1)
    boxes = np.array(detections.boxes)  # a copy
    boxes[:, :2] += rng.normal(0, 3, (len(boxes), 2))
    scores = rng.random(len(boxes)).astype(np.float32)
    for name, run in (
        ("a_1", detections),
        ("b_1", replace(detections, boxes=boxes, scores=scores)),
    ):
        (folder / name).mkdir()
        save_columns(str(folder / name / "instances_predictions.npz"), run)


def main() -> None:
    """Write the runs, compare them, and print time and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="19,809 is all of LVIS v1 val")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["bbox"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not (child := os.fork()):  # a child, so that its memory is not that of the command
            write_runs(folder, args.images, "segm" in args.tasks)
            os._exit(0)
        os.waitpid(child, 0)
        written = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        start = time.perf_counter()
        command = [sys.executable, "-m", "d2_seesaw", "report", "compare", "a_1", "--", "b_1"]
        command += ["--annotations", "val.json", "--task", *args.tasks, "--names", "a", "b"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with subprocess.Popen(command, cwd=folder, env=environment) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        sys.stdout.write(
            f"| {args.images:,} images, {' and '.join(args.tasks)} | {seconds:.0f} s "
            f"| {usage.ru_utime + usage.ru_stime:.0f} s | {usage.ru_maxrss / 2**20:.2f} GB |\n"
            f"generating: {written / 2**20:.2f} GB; exit status {process.returncode}\n"
        )


if __name__ == "__main__":
    main()
