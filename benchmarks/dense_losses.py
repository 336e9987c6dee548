"""Time and peak memory of the dense losses' training step, as ratios to cross-entropy.

    python benchmarks/dense_losses.py
    python benchmarks/dense_losses.py --device cuda

Every loss runs forward and backward on the same logits, 2 images of 1024 x 2048 pixels and 19
classes by default. They take turns within each round; what is printed is the median over the rounds
of the ratio within a round. Memory is the peak of one step beyond the logits and labels, with the
logits' gradient (319 MB) included, in a process of its own.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from d2_seesaw.losses import InverseFrequencyLoss, RecallLoss, SeesawCrossEntropyLoss

BASELINE = "F.cross_entropy"


LOSSES: dict[str, Callable[[int], nn.Module]] = {
    BASELINE: lambda classes: nn.CrossEntropyLoss(ignore_index=255),
    "RecallLoss": RecallLoss,
    "  chunk_size=None": lambda classes: RecallLoss(classes, chunk_size=None),
    "InverseFrequencyLoss": InverseFrequencyLoss,
    "SeesawCrossEntropyLoss": SeesawCrossEntropyLoss,
    "  chunk_size=None ": lambda classes: SeesawCrossEntropyLoss(classes, chunk_size=None),
    "  chunk_size=262144": lambda classes: SeesawCrossEntropyLoss(classes, chunk_size=2**18),
    "  sample_size=262144": lambda classes: SeesawCrossEntropyLoss(classes, sample_size=2**18),
}


def step_of(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """A training step of the loss, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.images, options.classes, *options.size)
    logits = torch.randn(shape, generator=generator).to(options.device).requires_grad_()
    uniform = torch.rand((options.images, *options.size), generator=generator)
    labels = (options.classes * uniform**3).long()  # a long tail: class 0 is the most frequent
    labels[:, :32] = 255
    labels = labels.to(options.device)
    loss = LOSSES[name](options.classes).to(options.device)

    def step() -> None:
        logits.grad = None
        loss(logits, labels).backward()
        if options.device == "cuda":
            torch.cuda.synchronize()

    return step


def extra_memory(name: str, options: argparse.Namespace, answer) -> None:
    """Peak MB of one step beyond what was there before it."""
    torch.set_num_threads(options.threads)
    step = step_of(name, options)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        answer.put((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the data
    before = resident_kilobytes("VmRSS")
    step()
    answer.put((resident_kilobytes("VmHWM") - before) * 1024 / 1e6)


def resident_kilobytes(field: str) -> int:
    """Memory of this process now (``VmRSS``) or at its peak (``VmHWM``); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def measure_memory(name: str, options: argparse.Namespace) -> float:
    """:func:`extra_memory` in a process of its own."""
    processes = multiprocessing.get_context("spawn")
    answer = processes.Queue()
    child = processes.Process(target=extra_memory, args=(name, options, answer))
    child.start()
    memory = answer.get()
    child.join()
    return memory


def main() -> None:
    """Print one line per loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    memory = {name: measure_memory(name, options) for name in LOSSES}
    steps = {name: step_of(name, options) for name in LOSSES}
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    for _ in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    print(f"{'':24}  {'time':>9}  {'ratio':>6}  {'memory':>8}  {'ratio':>6}")
    for name in LOSSES:
        ratios = [a / b for a, b in zip(times[name][1:], times[BASELINE][1:], strict=True)]
        print(
            f"{name:24}  {1e3 * statistics.median(times[name][1:]):6.0f} ms  "
            f"{statistics.median(ratios):6.2f}  {memory[name]:5.0f} MB  "
            f"{memory[name] / memory[BASELINE]:6.2f}"
        )


if __name__ == "__main__":
    main()
