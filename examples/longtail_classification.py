"""Long-tailed image classification in plain PyTorch: the same training with three losses.

    python examples/longtail_classification.py
    python examples/longtail_classification.py --loss seesaw --seeds 1 --imbalance 10

The classes are the characters of an invented script. Their numbers of training images follow an
exponential long tail; the test images are balanced. Prints the accuracy over all classes and over
the classes with many (above 100), a medium number of (20 to 100) and few (below 20) training
images, as in ImageNet-LT. Needs torch, NumPy, OpenCV and this project, but not Detectron2.

Shapes in this module:
    N: images
    C: classes
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from d2_seesaw.layers import NormedLinear
from d2_seesaw.losses import RecallLoss, SeesawCrossEntropyLoss

LOSSES = ("cross_entropy", "seesaw", "recall")
GROUPS = ("many", "medium", "few")
COLUMNS = ("overall", *GROUPS)
IMAGE_SIZE = 28
STROKES = 4
TRAIN, TEST = 0, 1


def training_counts(num_classes: int, most: int, imbalance: float) -> np.ndarray:
    """Return ``(C,)`` image counts, falling exponentially from ``most`` to ``most / imbalance``."""
    position = np.linspace(0, 1, num_classes)
    return np.rint(most * imbalance**-position).clip(min=1).astype(int)


def group_of(count: int) -> str:
    """Return the group of a class with ``count`` training images, by the bounds of ImageNet-LT."""
    return "many" if count > 100 else "medium" if count >= 20 else "few"


def character(index: int) -> np.ndarray:
    """Return ``(STROKES, 3, 2)`` control points in [-1, 1] of a class, independent of the seed."""
    return np.random.default_rng(index).uniform(-1, 1, (STROKES, 3, 2))


def draw(strokes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a character in a random handwriting, as ``(IMAGE_SIZE, IMAGE_SIZE)`` uint8 image.

    Points and shape vary, and so do size, angle, place, pen, brightness, clutter and noise.
    """
    side = 2 * IMAGE_SIZE
    angle, shear = rng.normal(0, 0.15, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    transform = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]])
    transform *= rng.uniform(0.55, 0.8) * side / 2
    shift = side / 2 + rng.normal(0, 0.04 * side, 2)
    clutter = rng.uniform(-1.2, 1.2, (1, 1, 2)) + rng.normal(0, 0.3, (1, 3, 2))
    points = np.concatenate([strokes + rng.normal(0, 0.1, strokes.shape), clutter])
    t = np.linspace(0, 1, 9)[:, None]
    bends = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2])  # quadratic Bezier curve
    curves = np.einsum("bti,sbj->stj", bends, points) @ transform.T + shift

    background, ink = rng.permutation([rng.uniform(20, 100), rng.uniform(155, 235)])
    image = np.full((side, side), background, np.float32)
    fixed_point = np.rint(curves * 16).astype(np.int32)
    cv2.polylines(image, list(fixed_point), False, float(ink), int(rng.integers(2, 5)), shift=4)
    image = cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
    image += rng.normal(0, rng.uniform(5, 30), image.shape)
    return image.clip(0, 255).astype(np.uint8)


def draw_all(counts: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``(N, 1, IMAGE_SIZE, IMAGE_SIZE)`` images, about [-1, 1], and ``(N,)`` sorted labels."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.stack([draw(character(label), rng) for label in labels.tolist()])
    return torch.from_numpy(images).float().div(127.5).sub(1)[:, None], torch.from_numpy(labels)


@dataclass(frozen=True)
class Data:
    """Training and test data of one seed."""

    counts: np.ndarray  # (C,) training images
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def generate(args: argparse.Namespace, seed: int) -> Data:
    """Generate data; the seed determines the images and which classes are rare."""
    counts = training_counts(args.classes, args.most_images, args.imbalance)
    counts = np.random.default_rng(seed).permutation(counts)
    return Data(
        counts=counts,
        train=draw_all(counts, np.random.default_rng([seed, TRAIN])),
        test=draw_all(np.full_like(counts, args.test_images), np.random.default_rng([seed, TEST])),
    )


def build_model(num_classes: int, normed: bool) -> nn.Sequential:
    """Build a small convolutional network; ``normed`` adds the paper's normalized classifier."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    features = 64 * (IMAGE_SIZE // 8) ** 2
    layers += [nn.Flatten(), nn.Linear(features, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    classifier = NormedLinear if normed else nn.Linear
    return nn.Sequential(*layers, classifier(128, num_classes))


def build_loss(name: str, num_classes: int) -> nn.Module:
    """Build a loss, which takes ``(N, C)`` logits and ``(N,)`` labels."""
    if name == "cross_entropy":
        return nn.CrossEntropyLoss()
    # Ignore no label: the default of 255, from segmentation, could be a class here.
    if name == "recall":
        return RecallLoss(num_classes, ignore_index=-1)
    # p and q of the paper's best classification result (section 4.5).
    return SeesawCrossEntropyLoss(num_classes, p=0.8, q=1.0, ignore_index=-1)


def train(data: Data, loss_name: str, seed: int, args: argparse.Namespace) -> nn.Module:
    """Train a model by SGD with a cosine schedule; runs with one seed differ only in the loss."""
    device = torch.device(args.device)
    torch.manual_seed(seed)
    model = build_model(len(data.counts), args.normed).to(device)
    loss_function = build_loss(loss_name, len(data.counts)).to(device)
    images, labels = (tensor.to(device) for tensor in data.train)
    # Batches of equal size, because batch norm cannot train on a last batch of one image.
    steps_per_epoch = math.ceil(len(labels) / args.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * steps_per_epoch)
    for _ in range(args.epochs):
        for batch in torch.randperm(len(labels)).tensor_split(steps_per_epoch):
            batch = batch.to(device)
            loss = loss_function(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return model


@torch.no_grad()
def accuracies(model: nn.Module, data: Data) -> dict[str, float | None]:
    """Return the accuracy in percent, overall and by group; None for a group without images."""
    model.eval()
    device = next(model.parameters()).device
    images, labels = data.test
    predicted = torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(500)])
    is_right = (predicted == labels).float()
    groups = np.array([group_of(count) for count in data.counts])[labels.numpy()]
    subsets = {"overall": is_right} | {
        group: is_right[torch.from_numpy(groups == group)] for group in GROUPS
    }
    return {name: 100 * s.mean().item() if len(s) else None for name, s in subsets.items()}


def mean_and_deviation(values: list[float | None], sign: str = "") -> str:
    """Format ``mean ± standard deviation`` over the seeds; without deviation for one seed."""
    known = [value for value in values if value is not None]
    if not known:
        return "n/a"
    mean = f"{statistics.mean(known):{sign}.1f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def table(runs: list[dict]) -> str:
    """Return the table: accuracies, then differences to cross-entropy, over the seeds."""
    rows = [["loss", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    by_loss = {loss: [r for r in runs if r["loss"] == loss] for loss in LOSSES}
    for loss, own in by_loss.items():
        if own:
            rows.append([loss, *(mean_and_deviation([r[c] for r in own]) for c in COLUMNS)])
    for loss, own in by_loss.items():
        if own and by_loss["cross_entropy"] and loss != "cross_entropy":
            pairs = list(zip(own, by_loss["cross_entropy"], strict=True))
            rows.append([f"{loss} - cross_entropy", *(difference(pairs, c) for c in COLUMNS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def difference(pairs: list[tuple[dict, dict]], column: str) -> str:
    """Format the mean difference between two losses, paired by seed."""
    known = [(a[column], b[column]) for a, b in pairs if a[column] is not None]
    return mean_and_deviation([a - b for a, b in known], sign="+")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser; the defaults reproduce the table in README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--loss", choices=[*LOSSES, "all"], default="all")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--epochs", type=int, default=10)
    add("--lr", type=float, default=0.4, help="initial rate; decays to 0 along a cosine")
    add("--batch-size", type=int, default=64)
    add("--classes", type=int, default=60)
    add("--most-images", type=int, default=300, help="training images of the most frequent class")
    add("--imbalance", type=float, default=100, help="ratio of most frequent to rarest class")
    add("--test-images", type=int, default=100, help="per class")
    add("--normed", action="store_true", help="normalized linear classifier, for all losses")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=["cpu", "cuda"], default=default_device)
    add("--output", type=Path, default=Path("output/longtail_classification.json"))
    return parser


def check(args: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        ValueError: an option is invalid. The message gives its name, its value and the valid range.
    """
    lowest = {"classes": 2, "batch_size": 3, "imbalance": 1}
    lowest |= dict.fromkeys(("epochs", "most_images", "test_images"), 1)
    for name, low in lowest.items():
        if not getattr(args, name) >= low:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} must be at least {low}, got {getattr(args, name)}")
    if not args.lr > 0:
        raise ValueError(f"--lr must be above 0, got {args.lr}")
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        raise ValueError(f"--seeds must be different and 0 or more, got {args.seeds}")


def main(arguments: list[str] | None = None) -> None:
    """Train with every loss and seed, print the table and write the runs."""
    args = argument_parser().parse_args(arguments)
    try:
        check(args)
    except ValueError as error:
        sys.exit(f"longtail_classification.py: {error}")
    runs = []
    for seed in args.seeds:
        data = generate(args, seed)
        for loss in LOSSES if args.loss == "all" else [args.loss]:
            start = time.monotonic()
            result = accuracies(train(data, loss, seed, args), data)
            seconds = round(time.monotonic() - start, 1)
            runs.append({"loss": loss, "seed": seed, **result, "seconds": seconds})
            cells = [f"{column} {mean_and_deviation([result[column]])}" for column in COLUMNS]
            print(f"seed {seed}, {loss}: {', '.join(cells)} ({seconds} s)", flush=True)
    print("\n" + table(runs))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    written = {
        "options": vars(args) | {"output": str(args.output)},
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__},
        "runs": runs,
    }
    args.output.write_text(json.dumps(written, indent=2) + "\n")
    print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    main()
