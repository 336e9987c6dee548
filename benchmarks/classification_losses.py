"""Benchmark of every classification loss of a box predictor against cross-entropy.

    python benchmarks/classification_losses.py
    python benchmarks/classification_losses.py --losses seesaw "balanced group softmax"
    python benchmarks/classification_losses.py --device cuda --rois 1024
    python benchmarks/classification_losses.py --class-loss

All losses run forward and backward on the same labels: R sampled RoIs, a quarter of which are
foreground with a long tail of classes. ``F.cross_entropy`` gets the C + 1 logits of the same RoIs.
The candidates take turns within each round, so that other load on the machine affects all of them.
The output is the median over the rounds of the ratio to ``F.cross_entropy`` within a round, with
its quartiles, and the growth of peak memory during a step beyond the logits.

``--class-loss`` compares the class loss of Seesaw Loss alone, on foreground RoIs, with
cross-entropy, with autograd through the same shifted logits, and with the formula that fills a
C x C matrix. On a GPU with Triton, the kernel is a candidate, too.

The process keeps freed memory unless --system-malloc is given. With that option, page faults
dominate the times, because the C library returns memory that the next step allocates again.

Shapes: R RoIs, C classes.
"""

import argparse
import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timing import (
    Row,
    Step,
    Times,
    add_device_options,
    device_name,
    measure,
    peak_megabytes,
    quartiles,
    ratios,
    write_json,
)
from torch import Tensor, nn

from d2_seesaw.losses import (
    BalancedGroupSoftmaxLoss,
    ECMLoss,
    EqualizationLossV2,
    FederatedLoss,
    FederatedSeesawLoss,
    LogitAdjustmentLoss,
    SeesawLoss,
    SoftmaxLoss,
    seesaw_cross_entropy,
)
from d2_seesaw.losses._common import check_labels
from d2_seesaw.losses.seesaw import seesaw_logits

BASELINE = "F.cross_entropy"


def _long_tail(classes: int) -> list[int]:
    """Return instances of each class, as unequal as in LVIS."""
    return [50_000 // (rank + 1) for rank in range(classes)]


class _FederatedSeesaw(FederatedSeesawLoss):
    """Federated Seesaw Loss where one of ten classes is verified."""

    def forward(
        self, logits: Tensor, labels: Tensor, verified_classes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses with the same verified classes for all RoIs."""
        of_class = torch.arange(self.num_classes, device=logits.device) % 10 == 0
        return super().forward(logits, labels, of_class.expand(len(labels), -1))


LOSSES: dict[str, Callable[[int], nn.Module]] = {
    "softmax": SoftmaxLoss,
    "softmax with objectness": lambda C: SoftmaxLoss(C, objectness=True),
    "seesaw": SeesawLoss,
    "seesaw with background": lambda C: SeesawLoss(C, objectness=False),
    "balanced group softmax": lambda C: BalancedGroupSoftmaxLoss(C, _long_tail(C)),
    "balanced softmax": lambda C: LogitAdjustmentLoss(C, _long_tail(C)),
    "logit adjustment": lambda C: LogitAdjustmentLoss(C, _long_tail(C), objectness=False),
    "federated": lambda C: FederatedLoss(C, class_counts=_long_tail(C)),
    "sigmoid": lambda C: FederatedLoss(C, num_sampled=None),
    "equalization v2": EqualizationLossV2,
    "ecm": lambda C: ECMLoss(C, _long_tail(C)),
    "federated seesaw": _FederatedSeesaw,
}
"""A new loss is one more entry."""


def step_on(logits: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Step:
    """Return one forward and backward pass; it returns the gradient."""

    def step() -> Tensor | None:
        leaf = logits.detach().requires_grad_()
        loss_of(leaf).backward()
        return leaf.grad

    return step


def make_step(name: str, rois: int, classes: int, device: str) -> Step:
    """Return one forward and backward pass of a loss of ``LOSSES``, or of cross-entropy."""
    generator = torch.Generator().manual_seed(0)
    labels = (classes * torch.rand(rois, generator=generator) ** 3).long()  # 0 is most frequent
    labels[rois // 4 :] = classes
    labels = labels.to(device)
    loss: Any = None if name == BASELINE else LOSSES[name](classes).to(device)
    width = classes + 1 if loss is None else loss.num_logits
    logits = (2 * torch.randn(rois, width, generator=generator)).to(device)
    if loss is None:
        return step_on(logits, lambda z: F.cross_entropy(z, labels))
    return step_on(logits, lambda z: torch.stack(list(loss(z, labels).values())).sum())


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


def ours(logits: Tensor, labels: Tensor, counts: Tensor, use_triton: bool = False) -> Tensor:
    """Compute this project's class loss, including the counting that its module does."""
    counts.scatter_add_(0, labels, torch.ones_like(labels))
    return seesaw_cross_entropy(logits, labels, counts, use_triton=use_triton)


def through_autograd(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Compute the same loss as :func:`ours`, with the gradient that autograd derives."""
    counts.scatter_add_(0, labels, torch.ones_like(labels))
    check_labels(labels, 0, logits.shape[1] - 1, "classes")
    shifted = seesaw_logits(logits, labels, counts, 0.8, 2.0, 1e-2)
    return F.cross_entropy(shifted, labels, reduction="none")


KERNEL = "ours, Triton"
LARGEST_SQUARE = 2**22
"""Largest number of logits for the C x C formula."""
CLASS_LOSSES = ("ours", BASELINE, "autograd", "C x C formula")


def class_loss_steps(
    rois: int, classes: int, device: str, names: Sequence[str] = CLASS_LOSSES
) -> dict[str, Step]:
    """Return the candidates of ``--class-loss``."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(rois, classes, generator=generator)).to(device)
    labels = (classes * torch.rand(rois, generator=generator) ** 3).long().to(device)
    counts = (1e5 / torch.arange(1, classes + 1)).long().to(device)
    float_counts = counts.float()
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": lambda z: ours(z, labels, counts).mean(),
        BASELINE: lambda z: F.cross_entropy(z, labels),
        "autograd": lambda z: through_autograd(z, labels, counts).mean(),
        "C x C formula": lambda z: square_formula(z, labels, float_counts).mean(),
        KERNEL: lambda z: ours(z, labels, counts, use_triton=True).mean(),
    }
    return {name: step_on(logits, losses[name]) for name in names}


def class_loss_step(name: str, rois: int, classes: int, device: str) -> Step:
    """Return one candidate of ``--class-loss``."""
    return class_loss_steps(rois, classes, device, [name])[name]


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse. Other C libraries are not affected."""
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def rows_of(case: str, times: Times, pairs: list[tuple[str, str]]) -> list[Row]:
    """Return the time of each candidate and the ratio of each pair, with quartiles."""
    rows: list[Row] = [
        {"case": case, "what": name, "unit": "ms", **quartiles(values)}
        for name, values in times.items()
    ]
    for numerator, denominator in pairs:
        row = {"case": case, "what": f"{numerator} / {denominator}", "unit": "ratio"}
        rows.append(row | quartiles(ratios(times, numerator, denominator)))
    return rows


def memory_rows(
    case: str,
    names: Sequence[str],
    rois: int,
    classes: int,
    device: str,
    new_step: Callable[..., Step] = make_step,
) -> list[Row]:
    """Return the growth of peak memory in a step, which includes the gradient of the logits."""
    megabytes = {
        name: peak_megabytes(new_step, (name, rois, classes, device), device) for name in names
    }
    rows: list[Row] = []
    for name, value in megabytes.items():
        same = {"case": case, "what": name, "low": None, "high": None}
        rows.append({**same, "unit": "MB", "median": value})
        rows.append({**same, "unit": "x memory", "median": value / megabytes[BASELINE]})
    return rows


def report(rows: list[Row]) -> None:
    """Print the rows of one case, times first."""
    titles = {
        "ms": "ms per step",
        "ratio": "ratio within a round",
        "MB": "peak memory of a step, MB",
        "x memory": f"peak memory / that of {BASELINE}",
    }
    for unit, title in titles.items():
        chosen = [row for row in rows if row["unit"] == unit]
        if chosen:
            print(f"  {title:<48}median  (quartiles)")
        for row in chosen:
            spread = "" if row["low"] is None else f"({row['low']:.2f} to {row['high']:.2f})"
            print(f"  {row['what']:<46}{row['median']:8.2f}  {spread}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--class-loss", action="store_true", help="Seesaw's class loss alone")
    parser.add_argument("--rois", type=int, default=512, help="RoIs per step")
    parser.add_argument("--classes", type=int, nargs="+", default=[1203])
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
    rois, device = arguments.rois, arguments.device
    where = device_name(device)
    if device == "cpu":
        where += f", {arguments.threads} threads"
    print(f"torch {torch.__version__}, {where}, {arguments.rounds} rounds")
    rows: list[Row] = []
    for classes in arguments.classes:
        case = f"{rois} x {classes}"
        names = [BASELINE, *arguments.losses]
        if arguments.class_loss:
            names = [*CLASS_LOSSES, KERNEL] if device != "cpu" else list(CLASS_LOSSES)
            if rois * classes > LARGEST_SQUARE:
                names.remove("C x C formula")
            steps = class_loss_steps(rois, classes, device, names)
            pairs = [(name, BASELINE) for name in names if name != BASELINE]
            pairs += [(name, "ours") for name in names if name not in ("ours", BASELINE)]
        else:
            steps = {name: make_step(name, rois, classes, device) for name in names}
            pairs = [(name, BASELINE) for name in arguments.losses]
        case_rows = rows_of(case, measure(steps, arguments.rounds, device), pairs)
        new_step = class_loss_step if arguments.class_loss else make_step
        case_rows += memory_rows(case, names, rois, classes, device, new_step)
        print(case)
        report(case_rows)
        rows += case_rows
    write_json(arguments.json, "classification_losses", device, rows)


if __name__ == "__main__":
    main()
