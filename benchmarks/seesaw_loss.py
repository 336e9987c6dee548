"""Benchmark of this project's Seesaw Loss against cross-entropy and the C x C formula.

    python benchmarks/seesaw_loss.py
    python benchmarks/seesaw_loss.py --classes 8142 --rounds 15
    python benchmarks/seesaw_loss.py --device cuda --rois 1024

All losses run forward and backward on the same foreground RoIs, and both Seesaw losses also count
the classes of the batch. They take turns within each round, so that other load on the machine
affects all of them. The output is the median over the rounds of the ratio within a round, with its
quartiles.

The process keeps freed memory unless --system-malloc is given. With that option, page faults
dominate the times, because the C library returns memory that the next step allocates again.

Shapes: R foreground RoIs, C classes.
"""

import argparse
import ctypes
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import (
    Row,
    Step,
    Times,
    add_device_options,
    device_name,
    measure,
    quartiles,
    ratios,
    write_json,
)
from torch import Tensor

from d2_seesaw.losses import seesaw_cross_entropy


def square_formula(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 1e-2,
) -> Tensor:
    """Compute Seesaw Loss literally: a ratio for every pair of classes, in linear space.

    As usual in such implementations, counts are updated one class at a time.
    """
    for label in labels.unique():
        counts[label] += (labels == label).sum()
    C = logits.shape[1]
    floored = counts.clamp(min=1)
    ratios = floored[None, :] / floored[:, None]  # C x C
    rarer = (ratios < 1).float()
    mitigation = (ratios.pow(p) * rarer + (1 - rarer))[labels]

    probs = logits.detach().softmax(dim=1)
    true_probs = probs.gather(1, labels[:, None]).clamp(min=eps)
    relative = probs / true_probs
    likelier = (relative > 1).float()
    compensation = relative.pow(q) * likelier + (1 - likelier)

    not_true = 1 - F.one_hot(labels, C)
    adjusted = logits + (mitigation * compensation).log() * not_true
    return F.cross_entropy(adjusted, labels, reduction="none")


def ours(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Compute this project's loss, including the counting that its module does."""
    counts.scatter_add_(0, labels, torch.ones_like(labels))
    return seesaw_cross_entropy(logits, labels, counts)


def make_steps(rois: int, classes: int, device: str) -> dict[str, Step]:
    """Return a function per candidate that runs one forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(rois, classes, generator=generator)).to(device)
    uniform = torch.rand(rois, generator=generator)
    labels = (classes * uniform**3).long().to(device)  # a long tail: class 0 is the most frequent
    counts = (1e5 / torch.arange(1, classes + 1)).long().to(device)
    float_counts = counts.float()

    def step_of(losses_of: Callable[[Tensor], Tensor]) -> Step:
        def step() -> Tensor | None:
            leaf = logits.detach().requires_grad_()
            losses_of(leaf).mean().backward()
            return leaf.grad

        return step

    return {
        "ours": step_of(lambda z: ours(z, labels, counts)),
        "cross-entropy": step_of(lambda z: F.cross_entropy(z, labels, reduction="none")),
        "C x C formula": step_of(lambda z: square_formula(z, labels, float_counts)),
    }


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse. Other C libraries are not affected."""
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def rows_of(case: str, times: Times) -> list[Row]:
    """Return the time of each candidate and its ratio to ours, with quartiles."""
    rows: list[Row] = [
        {"case": case, "what": name, "unit": "ms", **quartiles(values)}
        for name, values in times.items()
    ]
    pairs = (("C x C formula", "ours"), ("ours", "cross-entropy"))
    for numerator, denominator in pairs:
        row = {"case": case, "what": f"{numerator} / {denominator}", "unit": "ratio"}
        rows.append(row | quartiles(ratios(times, numerator, denominator)))
    return rows


def report(rows: list[Row]) -> None:
    """Print the rows of one case, times first."""
    titles = {"ms": "ms per step", "ratio": "ratio within a round"}
    for unit, title in titles.items():
        print(f"  {title:<34}median  (quartiles)")
        for row in rows:
            if row["unit"] == unit:
                spread = f"({row['low']:.2f} to {row['high']:.2f})"
                print(f"  {row['what']:<32}{row['median']:8.2f}  {spread}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rois", type=int, default=512, help="foreground RoIs per step")
    parser.add_argument("--classes", type=int, nargs="+", default=[1203, 8142])
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--threads", type=int, default=1, help="more than 1 needs an idle machine")
    parser.add_argument(
        "--system-malloc", action="store_true", help="do not change malloc's settings"
    )
    add_device_options(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if not arguments.system_malloc:
        keep_freed_memory()
    where = device_name(arguments.device)
    if arguments.device == "cpu":
        where += f", {arguments.threads} threads"
    print(f"torch {torch.__version__}, {where}, {arguments.rounds} rounds")
    rows: list[Row] = []
    for classes in arguments.classes:
        case = f"{arguments.rois} x {classes}"
        steps = make_steps(arguments.rois, classes, arguments.device)
        case_rows = rows_of(case, measure(steps, arguments.rounds, arguments.device))
        print(case)
        report(case_rows)
        rows += case_rows
    write_json(arguments.json, "seesaw_loss", arguments.device, rows)


if __name__ == "__main__":
    main()
