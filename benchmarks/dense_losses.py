"""Time and peak memory of a training step of the dense losses, relative to cross-entropy.

    python benchmarks/dense_losses.py
    python benchmarks/dense_losses.py --device cuda

Every loss runs forward and backward on the same logits, 2 images of 1024 x 2048 pixels and 19
classes by default. They take turns within each round. The output is the median over the rounds of
the ratio within a round. Memory is the peak of one step beyond the logits and labels, including the
gradient of the logits (319 MB). On the CPU it is measured in a separate process.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import (
    Row,
    Step,
    add_device_options,
    measure,
    peak_megabytes,
    quartiles,
    ratios,
    write_json,
)
from torch import nn

from d2_seesaw.losses import InverseFrequencyLoss, RecallLoss, SeesawCrossEntropyLoss

BASELINE = "F.cross_entropy"


LOSSES: dict[str, Callable[[int], nn.Module]] = {
    BASELINE: lambda classes: nn.CrossEntropyLoss(ignore_index=255),
    "RecallLoss": RecallLoss,
    "RecallLoss(chunk_size=None)": partial(RecallLoss, chunk_size=None),
    "InverseFrequencyLoss": InverseFrequencyLoss,
    "SeesawCrossEntropyLoss": SeesawCrossEntropyLoss,
    "SeesawCrossEntropyLoss(chunk_size=None)": partial(SeesawCrossEntropyLoss, chunk_size=None),
    "SeesawCrossEntropyLoss(chunk_size=262144)": partial(SeesawCrossEntropyLoss, chunk_size=2**18),
    "SeesawCrossEntropyLoss(sample_size=262144)": partial(
        SeesawCrossEntropyLoss, sample_size=2**18
    ),
}


def step_of(name: str, options: argparse.Namespace) -> Step:
    """Return a training step of the loss, forward and backward."""
    generator = torch.Generator(options.device).manual_seed(0)
    random = {"generator": generator, "device": options.device}
    logits = torch.randn(options.images, options.classes, *options.size, **random).requires_grad_()
    uniform = torch.rand(options.images, *options.size, **random)
    labels = (options.classes * uniform**3).long()  # a long tail: class 0 is the most frequent
    labels[:, :32] = 255
    loss = LOSSES[name](options.classes).to(options.device)

    def step() -> None:
        logits.grad = None
        loss(logits, labels).backward()

    return step


def rows_of(options: argparse.Namespace) -> list[Row]:
    """Measure time and memory of every loss, and both ratios."""
    memory = {name: peak_megabytes(step_of, (name, options), options.device) for name in LOSSES}
    steps = {name: step_of(name, options) for name in LOSSES}
    times = measure(steps, options.rounds, options.device)
    images, classes, (height, width) = options.images, options.classes, options.size
    case = f"{images} x {classes} x {height} x {width}"
    return [
        {
            "case": case,
            "what": name,
            "unit": "ms",
            **quartiles(times[name]),
            "ratio": quartiles(ratios(times, name, BASELINE))["median"],
            "memory MB": memory[name],
            "memory ratio": memory[name] / memory[BASELINE],
        }
        for name in LOSSES
    ]


def main() -> None:
    """Print one line per loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    parser.add_argument("--threads", type=int, default=1)
    add_device_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = rows_of(options)
    print(f"{'':43}  {'time':>9}  {'ratio':>6}  {'memory':>8}  {'ratio':>6}")
    for row in rows:
        print(
            f"{row['what']:43}  {row['median']:6.1f} ms  {row['ratio']:6.2f}  "
            f"{row['memory MB']:5.0f} MB  {row['memory ratio']:6.2f}"
        )
    write_json(options.json, "dense_losses", options.device, rows)


if __name__ == "__main__":
    main()
