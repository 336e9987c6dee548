"""Time and memory of a mask predictor's training step: all channels, and the one that is needed.

    python benchmarks/mask_predictor.py
    python benchmarks/mask_predictor.py --rois 512 --device cuda

Both run the predictor and the loss forward and backward on the features that the up-sampling layer
makes, and take turns; what is printed is the median over the rounds, and the peak of one step
beyond the features (their gradient included: 103 MB for 128 RoIs), in a process of its own.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_seesaw.layers import NormedConv2d, conv1x1_channel


def all_channels(conv: nn.Conv2d, x: Tensor, classes: Tensor) -> Tensor:
    """As Detectron2: every class's mask, then the one that is needed."""
    return conv(x)[torch.arange(len(x), device=x.device), classes]


def needed_channel(conv: nn.Conv2d, x: Tensor, classes: Tensor) -> Tensor:
    """The package's way."""
    return conv1x1_channel(conv, x, classes)[:, 0]


def step_of(predict: Callable[..., Tensor], options: argparse.Namespace, kind: str):
    """A training step: predictor and loss, forward and backward."""
    torch.manual_seed(0)
    layer = NormedConv2d if kind == "normalised" else nn.Conv2d
    conv = layer(256, options.classes, 1).to(options.device)
    x = torch.rand(options.rois, 256, 28, 28, device=options.device)
    target = (torch.rand(options.rois, 28, 28, device=options.device) > 0.5).float()
    classes = torch.randint(options.classes, (options.rois,), device=options.device)

    def step() -> None:
        leaf = x.detach().requires_grad_()
        F.binary_cross_entropy_with_logits(predict(conv, leaf, classes), target).backward()
        if options.device == "cuda":
            torch.cuda.synchronize()

    return step


def extra_memory(name: str, options: argparse.Namespace, kind: str, answer) -> None:
    """Peak MB of one step beyond what was there before it."""
    step = step_of(CANDIDATES[name], options, kind)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        answer.put((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    before = resident_kilobytes("VmRSS")
    step()
    answer.put((resident_kilobytes("VmHWM") - before) * 1024 / 1e6)


def resident_kilobytes(field: str) -> int:
    """Memory of this process now (``VmRSS``) or at its peak (``VmHWM``); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


CANDIDATES = {"all channels": all_channels, "needed channel": needed_channel}


def main() -> None:
    """Print one line per predictor and candidate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rois", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    for kind in ("plain", "normalised"):
        steps = {name: step_of(predict, options, kind) for name, predict in CANDIDATES.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(options.rounds + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
        for name in steps:
            answer = processes.Queue()
            child = processes.Process(target=extra_memory, args=(name, options, kind, answer))
            child.start()
            memory = answer.get()
            child.join()
            milliseconds = 1e3 * statistics.median(times[name][1:])  # the first warms up
            print(f"{kind:10}  {name:14}  {milliseconds:8.1f} ms  {memory:8.0f} MB")


if __name__ == "__main__":
    main()
