"""Time of the metrics and of Seesaw Loss against the size of their input, as a plot on log axes.

    python -m benchmarks.cost_against_size docs/images/cost_against_size.svg

One size varies while the others stay: images, categories and detections of the LVIS metrics of
boxes and masks, RoIs and classes of the loss. A point is the shortest of several processor times,
on one thread. The script prints the slope of each line on log axes between its largest sizes,
where 1 is linear, and a slope below 1 means that a part of the time does not depend on the size.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from matplotlib.figure import Figure

from benchmarks import lvis_metrics
from benchmarks.lvis_engines import ours
from d2_seesaw.data.rle.kernels import LEAST_MASKS, compiled_functions

sys.path.insert(0, str(Path(__file__).parent))  # the module of losses imports its neighbors
from classification_losses import class_loss_steps

Line = tuple[str, str, list[tuple[int, float]]]
IMAGES, CATEGORIES, DETECTIONS = 1000, 1203, 100
ROIS, CLASSES = 512, 1203
METRIC_SIZES = {
    "images": [IMAGES * 2**i // 4 for i in range(5)],
    "categories": [150, 300, 600, 1203, 2406],
    "detections of an image": [25, 50, 100, 200, 400],
}
LOSS_SIZES = {"RoIs": [128, 256, 512, 1024, 2048, 4096], "classes": [300, 600, 1203, 2406, 4812]}


def shortest(step: Callable[[], object], rounds: int) -> float:
    """Return the shortest processor time of several calls, in seconds."""
    step()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times)


def metric_lines(task: str, rounds: int) -> Iterator[Line]:
    """Time the LVIS metrics of a task with one size after the other."""
    for name, sizes in METRIC_SIZES.items():
        points = []
        for size in sizes:
            images = size if name == "images" else IMAGES
            categories = size if name == "categories" else CATEGORIES
            detections = size if name == "detections of an image" else DETECTIONS
            with mock.patch.object(lvis_metrics, "K", categories):
                data, found = lvis_metrics.generate(images, detections, masks=task == "segm")
            points.append((size, shortest(ours(data, found, task), rounds)))
        yield f"LVIS metrics, {'masks' if task == 'segm' else 'boxes'}", name, points


def loss_lines(rounds: int) -> Iterator[Line]:
    """Time forward and backward pass of the class loss with one size after the other."""
    for name, sizes in LOSS_SIZES.items():
        points = []
        for size in sizes:
            rois, classes = (size, CLASSES) if name == "RoIs" else (ROIS, size)
            step = class_loss_steps(rois, classes, "cpu", ["ours"])["ours"]
            points.append((size, shortest(step, 10 * rounds)))
        yield "Seesaw Loss", name, points


def slope(points: list[tuple[int, float]]) -> float:
    """Return the slope on log axes between the two largest sizes."""
    (size, seconds), (larger, longer) = points[-2:]
    return math.log(longer / seconds) / math.log(larger / size)


def draw(lines: list[Line], path: str) -> None:
    """Draw one panel for each function, with the size relative to the smallest one."""
    panels = list(dict.fromkeys(panel for panel, _, _ in lines))
    figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        most = 1.0
        for _, name, points in (line for line in lines if line[0] == panel):
            sizes = [size / points[0][0] for size, _ in points]
            axes.loglog(sizes, [1e3 * seconds for _, seconds in points], marker="o", label=name)
            most = max(most, sizes[-1])
        low = axes.get_ylim()[0]
        axes.loglog([1, most], [low, low * most], color="0.6", linestyle=":", label="linear")
        axes.set(title=panel, xlabel="size / smallest size")
        axes.legend(fontsize="small")
    figure.axes[0].set_ylabel("ms")
    figure.savefig(path)


def main() -> None:
    """Time everything, print the slopes and draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plot", help="file to write, of a format that Matplotlib knows")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    compiled_functions(LEAST_MASKS)  # all points of a line with numba, or none
    lines = [*metric_lines("bbox", args.rounds), *metric_lines("segm", args.rounds)]
    lines += loss_lines(args.rounds)
    print("| function | size | smallest | largest | slope |\n|---|---|---|---|---|")
    for panel, name, points in lines:
        ends = " | ".join(f"{size:,}: {1e3 * t:.1f} ms" for size, t in (points[0], points[-1]))
        print(f"| {panel} | {name} | {ends} | {slope(points):.2f} |")
    draw(lines, args.plot)


if __name__ == "__main__":
    main()
