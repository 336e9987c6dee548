"""Coverage of the intervals of `d2-seesaw report compare`, by simulation.

    python benchmarks/interval_coverage.py
    python benchmarks/interval_coverage.py --seeds 1 3 5 --difference 2 --trials 300

Started again, it does the trials that are left.

Each trial draws a new validation split and new trainings, and computes the intervals of AP, APr,
APc and APf. The split has 300 images and 48 categories, 16 of each group; a rare category is in 2
to 6 of the images on average, a common one in 8 to 25, a frequent one in 30 to 90, with 1.5 objects
an image. A category was verified in its images and in a tenth of the others.

An object is found at as many of the ten IoU thresholds as its quality says. The quality is a sum of
normal terms: the category (standard deviation 1), the image (0.7) and the object (0.7), all shared
by the runs; the run's view of the object (0.7); and, with several seeds, the run (0.05), the run in
this category (0.3), and the method's view of the image (0.3), which its seeds share. The score of a
detection follows its quality, with noise. In a verified image, there are 0.7 wrong detections of a
category with lower scores, and 0.3 further detections of an object, which are wrong.

With one seed the two runs are exchangeable given the images: only the terms of the object and the
wrong detections differ. Without --difference nothing differs: the share of intervals that exclude
zero should be 5 %. With --difference D the quality of the second method is higher by D tenths; the
true difference is the mean over all trials, and the tables show how often it is covered too.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2_seesaw.evaluation.analysis.intervals import (
    ResampledRuns,
    difference_interval,
)
from d2_seesaw.evaluation.analysis.resampled_ap import (
    CountedObjects,
    RankedMatches,
    resample_weights,
)

IMAGES, OF_GROUP = 300, 16
EXPECTED_IMAGES = np.concatenate(
    [np.geomspace(*bounds, OF_GROUP) for bounds in ((2, 6), (8, 25), (30, 90))]
)
K = len(EXPECTED_IMAGES)
METRICS = {
    "AP": slice(0, K),
    **{f"AP{g}": slice(i * OF_GROUP, (i + 1) * OF_GROUP) for i, g in enumerate("rcf")},
}
THRESHOLDS = np.linspace(-1.5, 3.0, 10)
VERIFIED = 0.1
BINS = (1, 5, 10, 20, 40)
NAMES_OF_BINS = ("1 to 4 images", "5 to 9", "10 to 19", "20 to 39", "40 and more")


class Split(NamedTuple):
    """Objects of a validation split, and where categories were verified.

    Attributes:
        images: image of each object.
        categories: category of each object.
        quality: the part of its quality that all runs share.
        verified: images and categories of the verified pairs.
    """

    images: np.ndarray
    categories: np.ndarray
    quality: np.ndarray
    verified: tuple[np.ndarray, np.ndarray]


def draw_split(rng: np.random.Generator) -> Split:
    """Draw images and objects."""
    present = rng.random((IMAGES, K)) < EXPECTED_IMAGES / IMAGES
    verified = np.nonzero(present | (rng.random((IMAGES, K)) < VERIFIED))
    pairs = np.argwhere(present)
    pairs = np.repeat(pairs, 1 + rng.poisson(0.5, len(pairs)), axis=0)
    images, categories = pairs.T
    quality = rng.normal(0, 1.0, K)[categories] + rng.normal(0, 0.7, IMAGES)[images]
    quality += rng.normal(0, 0.7, len(pairs))
    return Split(images, categories, quality, (verified[0], verified[1]))


def draw_run(
    rng: np.random.Generator, split: Split, view: np.ndarray, better: float, seeds: bool
) -> RankedMatches:
    """Draw the detections of one training.

    Args:
        rng: Random numbers.
        split: The validation split.
        view: ``(IMAGES,)`` how the method sees each image.
        better: Added to the quality.
        seeds: Whether trainings differ beyond single objects.
    """
    n = len(split.images)
    quality = split.quality + better + view[split.images] + rng.normal(0, 0.7, n)
    if seeds:
        quality += rng.normal(0, 0.05) + rng.normal(0, 0.3, K)[split.categories]
    again = np.flatnonzero(rng.random(n) < 0.3)
    pairs = np.repeat(np.arange(len(split.verified[0])), rng.poisson(0.7, len(split.verified[0])))
    objects = np.arange(n)
    images, categories = (
        np.concatenate([of[objects], of[again], there[pairs]])
        for of, there in zip((split.images, split.categories), split.verified, strict=True)
    )
    scores = np.concatenate(
        [
            quality + rng.normal(0, 0.7, n),
            quality[again] - 1 + rng.normal(0, 0.7, len(again)),
            rng.normal(-1, 1, len(pairs)),
        ]
    )
    right = np.zeros((len(scores), len(THRESHOLDS)), dtype=bool)
    right[:n] = quality[:, None] > THRESHOLDS
    order = np.argsort(images, kind="stable")
    return RankedMatches.from_arrays(
        *(x[order] for x in (categories, images, scores, right, ~right))
    )


def trial(
    seed: int, seeds: int, difference: float, resamples: int, paired: bool
) -> dict[str, list[tuple[float, float, float]]]:
    """Run one trial.

    Returns:
        Mean, low and high of the differences: one for each metric, and one for each evaluated
        category, by its number of images.
    """
    rng = np.random.default_rng(seed)
    split = draw_split(rng)
    objects = CountedObjects.from_arrays(split.images, split.categories, K)
    weights = np.concatenate(
        [np.ones((1, IMAGES), np.int32), resample_weights(np.arange(IMAGES), resamples, rng)]
    )
    numbers = objects.numbers(weights)
    found = []
    for method in range(2):
        view = rng.normal(0, 0.3 if seeds > 1 else 0.0, IMAGES)
        for _ in range(seeds):
            run = draw_run(rng, split, view, method * difference / 10, seeds > 1)
            found.append(run.average_precision(weights, numbers))
    ap = np.stack(found, axis=1)
    first, second = (ResampledRuns(x[0], x[1:]) for x in (ap[:, :seeds], ap[:, seeds:]))

    images = objects.units_of_categories(np.arange(IMAGES))

    def interval(chosen: np.ndarray) -> tuple[float, float, float]:
        i = difference_interval(first.of(chosen), second.of(chosen), images[chosen], paired=paired)
        return i.mean, i.low, i.high

    intervals = {}
    for metric, categories in METRICS.items():
        chosen = np.arange(K)[categories]
        chosen = chosen[numbers[0, chosen] > 0]
        intervals[metric] = [interval(chosen)]
        if metric == "AP":
            for k in chosen:
                bin_of = np.searchsorted(BINS, images[k], side="right") - 1
                intervals.setdefault(NAMES_OF_BINS[bin_of], []).append(interval(np.array([k])))
    return intervals


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the rows of the table of finished trials."""
    yield "| runs | paired | difference | of | trials | excludes 0 | covers | mean | width |"
    yield "|---|---|---|---|---|---|---|---|---|"
    cells = defaultdict(list)
    for result in results:
        for name, intervals in result["intervals"].items():
            key = (result["difference"], result["paired"], result["seeds"], name)
            cells[key] += intervals
    order = [*METRICS, *NAMES_OF_BINS]
    for key in sorted(cells, key=lambda k: (*k[:3], order.index(k[3]))):
        difference, paired, seeds, name = key
        mean, low, high = np.array(cells[key]).T
        excluded = ((low > 0) | (high < 0)).mean()
        covered = ((low <= mean.mean()) & (mean.mean() <= high)).mean()
        yield (
            f"| {seeds} | {'yes' if paired else 'no'} | {difference:g} | {name} | {len(mean):,} "
            f"| {excluded:.1%} | {covered:.1%} | {mean.mean():+.2f} | {(high - low).mean():.1f} |"
        )


def main() -> None:
    """Run the trials that are left and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[1, 3, 5], help="runs of each method")
    add("--trials", type=int, default=1000)
    add("--resamples", type=int, default=100)
    add("--difference", type=float, default=0.0, help="in tenths of the quality")
    add("--unpaired", action="store_true")
    add("--output", type=Path, default=Path("output/interval_coverage.jsonl"))
    add("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.touch()
    results = [json.loads(line) for line in args.output.read_text().splitlines()]
    done = {(r["seeds"], r["difference"], r["paired"], r["trial"]) for r in results}
    for number in range(0 if args.table else args.trials):
        for seeds in args.seeds:
            if (seeds, args.difference, not args.unpaired, number) in done:
                continue
            intervals = trial(number, seeds, args.difference, args.resamples, not args.unpaired)
            result = {"seeds": seeds, "difference": args.difference, "paired": not args.unpaired}
            results.append({**result, "trial": number, "intervals": intervals})
            with args.output.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
    sys.stdout.write("\n".join(table(results)) + "\n")


if __name__ == "__main__":
    main()
