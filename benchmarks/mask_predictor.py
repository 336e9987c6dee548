"""Time and memory of a mask predictor's training step: all channels, and only the needed one.

    python benchmarks/mask_predictor.py
    python benchmarks/mask_predictor.py --rois 512 --device cuda

Both run the predictor and the loss forward and backward on the output of the upsampling layer, and
take turns. The output is the median over the rounds and the peak memory of one step beyond the
features (including their gradient, 103 MB for 128 RoIs). On the CPU, memory is measured in a
separate process.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
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
from torch import Tensor, nn

from d2_seesaw.layers import NormedConv2d
from d2_seesaw.layers.predictors import conv1x1_channel


def all_channels(conv: nn.Conv2d, x: Tensor, classes: Tensor) -> Tensor:
    """Compute the masks of all classes, then select the needed one, as Detectron2 does."""
    return conv(x)[torch.arange(len(x), device=x.device), classes]


def needed_channel(conv: nn.Conv2d, x: Tensor, classes: Tensor) -> Tensor:
    """Compute only the needed mask, as this project does."""
    return conv1x1_channel(conv, x, classes)[:, 0]


CANDIDATES: dict[str, Callable[..., Tensor]] = {
    "all channels": all_channels,
    "needed channel": needed_channel,
}


def step_of(name: str, options: argparse.Namespace, kind: str) -> Step:
    """Return a training step: predictor and loss, forward and backward."""
    predict = CANDIDATES[name]
    torch.manual_seed(0)
    layer = NormedConv2d if kind == "normalized" else nn.Conv2d
    conv = layer(256, options.classes, 1).to(options.device)
    x = torch.rand(options.rois, 256, 28, 28, device=options.device)
    target = (torch.rand(options.rois, 28, 28, device=options.device) > 0.5).float()
    classes = torch.randint(options.classes, (options.rois,), device=options.device)

    def step() -> None:
        leaf = x.detach().requires_grad_()
        F.binary_cross_entropy_with_logits(predict(conv, leaf, classes), target).backward()

    return step


def rows_of(kind: str, options: argparse.Namespace) -> list[Row]:
    """Measure time and memory of both candidates, and the ratio of their times."""
    steps = {name: step_of(name, options, kind) for name in CANDIDATES}
    times = measure(steps, options.rounds, options.device)
    del steps
    rows: list[Row] = []
    for name, values in times.items():
        memory = peak_megabytes(step_of, (name, options, kind), options.device)
        row = {"case": kind, "what": name, "unit": "ms", "memory MB": memory}
        rows.append(row | quartiles(values))
    numerator, denominator = CANDIDATES
    rows.append(
        {
            "case": kind,
            "what": f"{numerator} / {denominator}",
            "unit": "ratio",
            **quartiles(ratios(times, numerator, denominator)),
        }
    )
    return rows


def main() -> None:
    """Print one line per predictor and candidate, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rois", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    add_device_options(parser)
    options = parser.parse_args()
    rows: list[Row] = []
    for kind in ("plain", "normalized"):
        rows += rows_of(kind, options)
    for row in rows:
        memory = f"  {row['memory MB']:8.0f} MB" if "memory MB" in row else ""
        print(f"{row['case']:10}  {row['what']:29}  {row['median']:8.1f} {row['unit']:5}{memory}")
    write_json(options.json, "mask_predictor", options.device, rows)


if __name__ == "__main__":
    main()
