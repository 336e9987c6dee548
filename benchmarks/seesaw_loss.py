"""Time of a training step's classification loss: ours, plain cross-entropy, and the C x C formula.

    python benchmarks/seesaw_loss.py
    python benchmarks/seesaw_loss.py --classes 8142 --rounds 15

All of them run forward and backward on the same foreground RoIs, and both Seesaw losses count the
classes of the batch as well. They take turns within each round, so that another load on the machine
hits all of them, and what is printed is the median over the rounds of the ratio within a round,
with its quartiles.

Freed memory stays with the process unless --system-malloc is given: else most of what is measured
is how often the C library returned memory that the next step has to ask for, page by page.

Shapes: R foreground RoIs, C classes.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_seesaw.losses import seesaw_cross_entropy

Step = Callable[[], object]


def square_formula(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 1e-2,
) -> Tensor:
    """Seesaw as its equations are written: a ratio for every pair of classes, in linear space.

    As usual in such code, the counts are updated one class at a time.
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
    """The package's loss, with the counting that its module does."""
    counts += torch.bincount(labels, minlength=logits.shape[1])
    return seesaw_cross_entropy(logits, labels, counts)


def make_steps(rois: int, classes: int) -> dict[str, Step]:
    """One forward and backward pass of each candidate, by its name."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rois, classes, generator=generator)
    uniform = torch.rand(rois, generator=generator)
    labels = (classes * uniform**3).long()  # a long tail: class 0 is the most frequent
    counts = (1e5 / torch.arange(1, classes + 1)).long()
    float_counts = counts.float()

    def step_of(losses_of: Callable[[Tensor], Tensor]) -> Step:
        def step() -> Tensor:
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
    """Have glibc reuse memory instead of returning it; without effect on other C libraries."""
    trim_threshold, mmap_max = -1, -4  # names of the parameters in malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def timed(step: Step, repeats: int) -> float:
    """Milliseconds per call."""
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return 1e3 * (time.perf_counter() - start) / repeats


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each candidate in each round; a candidate takes some 0.03 s of a round."""
    repeats = {}
    for name, step in steps.items():
        step()
        repeats[name] = max(1, round(30 / max(timed(step, 2), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(timed(step, repeats[name]))
    return times


def summary(values: list[float]) -> str:
    """The median, and the quartiles between which half of the rounds lie."""
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:8.2f}  ({low:.2f} to {high:.2f})"


def report(times: dict[str, list[float]]) -> None:
    """Print the time of each candidate and its ratio to ours."""
    reference = times["ours"]
    print(f"  {'ms per step':<34}median  (quartiles)")
    for name, values in times.items():
        print(f"  {name:<32}{summary(values)}")
    print(f"  {'ratio within a round':<34}median  (quartiles)")
    square = [s / o for s, o in zip(times["C x C formula"], reference, strict=True)]
    plain = [o / c for o, c in zip(reference, times["cross-entropy"], strict=True)]
    print(f"  {'C x C formula / ours':<32}{summary(square)}")
    print(f"  {'ours / cross-entropy':<32}{summary(plain)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rois", type=int, default=512, help="foreground RoIs per step")
    parser.add_argument("--classes", type=int, nargs="+", default=[1203, 8142])
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--threads", type=int, default=1, help="more need a quiet machine")
    parser.add_argument("--system-malloc", action="store_true", help="leave malloc as it is")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if not arguments.system_malloc:
        keep_freed_memory()
    print(f"torch {torch.__version__}, {arguments.threads} threads, CPU, {arguments.rounds} rounds")
    for classes in arguments.classes:
        print(f"{arguments.rois} x {classes}")
        report(measure(make_steps(arguments.rois, classes), arguments.rounds))


if __name__ == "__main__":
    main()
