"""Coverage of the intervals of `d2-seesaw report compare`, by simulation.

    python benchmarks/interval_coverage.py
    python benchmarks/interval_coverage.py --seeds 5 --difference 3 --trials 300

Each trial draws a new validation split and new trainings, and computes the intervals of AP, APr,
APc and APf. The split has 300 images and 48 categories, 16 of each group; a rare category is in 2 to
6 of the images on average, a common one in 8 to 25, a frequent one in 30 to 90, with 1.5 objects an
image. A category was verified in its images and in a tenth of the others.

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
import multiprocessing
import time
from typing import NamedTuple

import numpy as np

from d2_seesaw.evaluation.analysis.intervals import (
    Interval,
    difference_interval,
    image_covariance,
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
    return Split(images, categories, quality + rng.normal(0, 0.7, len(pairs)), verified)


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
    pairs = np.repeat(
        np.arange(len(split.verified[0])), rng.poisson(0.7, len(split.verified[0]))
    )
    objects = np.arange(n)
    images, categories = (
        np.concatenate([of[objects], of[again], there[pairs]])
        for of, there in zip(
            (split.images, split.categories), split.verified, strict=True
        )
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


def trial(seed: int, seeds: int, difference: float, resamples: int) -> dict[str, Interval]:
    """Run one trial and return the intervals, for groups of at least two evaluated categories."""
    rng = np.random.default_rng(seed)
    split = draw_split(rng)
    objects = CountedObjects.from_arrays(split.images, split.categories, K)
    weights = np.concatenate(
        [np.ones((1, IMAGES), np.int32), resample_weights(IMAGES, resamples, rng)]
    )
    numbers = objects.numbers(weights)
    found = []
    for method in range(2):
        view = rng.normal(0, 0.3 if seeds > 1 else 0.0, IMAGES)
        for _ in range(seeds):
            run = draw_run(rng, split, view, method * difference / 10, seeds > 1)
            found.append(run.average_precision(weights, numbers))
    ap = np.stack(found, axis=1)
    intervals = {}
    for metric, categories in METRICS.items():
        chosen = np.arange(K)[categories]
        chosen = chosen[numbers[0, chosen] > 0]
        point, resampled = ap[0][:, chosen], ap[1:, :, chosen]
        covariance = image_covariance(point, resampled, objects.images_of_categories[chosen])
        means = point.mean(axis=1)
        intervals[metric] = difference_interval(
            means[:seeds], means[seeds:], covariance, paired=PAIRED
        )
    return intervals


PAIRED = True


def main() -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[1, 3, 5], help="runs of each method")
    add("--trials", type=int, default=1000)
    add("--resamples", type=int, default=300)
    add("--difference", type=float, default=0.0, help="in tenths of the quality")
    add("--seed", type=int, default=0)
    add("--processes", type=int, default=1)
    args = parser.parse_args()
    print("| seeds | metric | excludes 0 | covers the mean | mean | mean width |")
    print("|---|---|---|---|---|---|")
    for seeds in args.seeds:
        start = time.perf_counter()
        jobs = [
            (args.seed + i, seeds, args.difference, args.resamples) for i in range(args.trials)
        ]
        with multiprocessing.Pool(args.processes) as pool:
            trials = pool.starmap(trial, jobs, chunksize=10)
        for metric in METRICS:
            found = [t[metric] for t in trials]
            true = np.mean([i.mean for i in found])
            excluded = np.mean([i.low > 0 or i.high < 0 for i in found])
            covered = np.mean([i.low <= true <= i.high for i in found])
            width = np.mean([i.high - i.low for i in found])
            print(
                f"| {seeds} | {metric} | {excluded:.1%} | {covered:.1%} | {true:.2f} | {width:.2f} |",
                flush=True,
            )
        print(f"{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
