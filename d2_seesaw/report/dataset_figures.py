"""Charts of datasets, for pages and for papers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

from d2_seesaw.data.check.overview import SIZE_BOUNDS, CategoryOverview, DatasetOverview
from d2_seesaw.data.frequency import GROUP_NAMES, MOST_IMAGES_OF_COMMON, MOST_IMAGES_OF_RARE
from d2_seesaw.report.drawing import Canvas, Chart
from d2_seesaw.report.figures import MARKERS
from d2_seesaw.report.series import GROUP_COLORS


def training_images(overview: DatasetOverview) -> Chart:
    """Draw the training images of each category, the most frequent category first."""
    ranked = sorted(overview.categories, key=lambda c: -c.train_images)
    draw = partial(
        _draw_ranks,
        categories=ranked,
        values=[c.train_images for c in ranked],
        texts=[f"{c.name}: {c.train_images:,} training images" for c in ranked],
        labels=("categories, the most frequent first", "training images"),
        bounds={"frequent above": MOST_IMAGES_OF_COMMON, "rare up to here": MOST_IMAGES_OF_RARE},
    )
    return Chart("training images by rank of the category", draw, height=360)


def repeat_factors(overview: DatasetOverview) -> Chart:
    """Draw the repeat factor of each category that is in an image of this split."""
    ranked = [c for c in sorted(overview.categories, key=lambda c: -c.images) if c.images]
    draw = partial(
        _draw_ranks,
        categories=ranked,
        values=[c.repeat_factor for c in ranked],
        texts=[f"{c.name}: {c.repeat_factor:.2f}" for c in ranked],
        labels=("categories, those in the most images of this split first", "repeat factor"),
        bounds={},
    )
    return Chart("repeat factor by rank of the category", draw, height=360)


def object_sizes(overview: DatasetOverview) -> Chart:
    """Draw the histogram of object sizes."""
    return Chart("objects by size", partial(_draw_sizes, numbers=overview.object_sizes), height=320)


def _draw_ranks(
    canvas: Canvas,
    *,
    categories: Sequence[CategoryOverview],
    values: Sequence[float],
    texts: Sequence[str],
    labels: tuple[str, str],
    bounds: Mapping[str, float],
) -> None:
    axes = canvas.axes
    for group, name in GROUP_NAMES.items():
        members = [i for i, c in enumerate(categories) if c.group == group]
        if members:
            points = axes.scatter(
                [i + 1 for i in members],
                [values[i] for i in members],
                s=20 if canvas.is_page else 6,
                marker=MARKERS[group],
                color=GROUP_COLORS[group],
                linewidths=0,
                clip_on=False,
            )
            canvas.add_tooltips(points, [texts[i] for i in members])
            canvas.legend.append((points, name))
    for text, value in bounds.items():
        axes.axhline(value, color=canvas.ink, linewidth=0.8, linestyle="--")
        end = axes.get_yaxis_transform()
        axes.text(1, value * 1.08, text, transform=end, ha="right", va="bottom")
    top = 10
    while top < max(values, default=1):
        top *= 10
    multiples = (1, 2, 5) if top == 10 else (1,)
    ticks = [m * 10**d for d in range(len(str(top))) for m in multiples if m * 10**d <= top]
    if has_zero := any(value < 1 for value in values):
        ticks = [0, *ticks]
    axes.set_yscale("symlog", linthresh=1, linscale=0.5) if has_zero else axes.set_yscale("log")
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(0 if has_zero else 0.9, top)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(0, len(categories) + 1)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])


def _draw_sizes(canvas: Canvas, *, numbers: Sequence[int]) -> None:
    inner = [f"{a} to {b}" for a, b in itertools.pairwise(SIZE_BOUNDS)]
    names = [f"< {SIZE_BOUNDS[0]}", *inner, f"≥ {SIZE_BOUNDS[-1]}"]
    axes = canvas.axes
    bars = axes.bar(names, numbers, color=GROUP_COLORS["n/a"])
    for bar, name, number in zip(bars, names, numbers, strict=True):
        if number:
            canvas.add_tooltips(bar, [f"{number:,} objects of {name} pixels"])
    axes.bar_label(bars, [f"{number:,}" for number in numbers], padding=2)
    axes.grid(visible=False)
    axes.set_ylim(0, 1.12 * max(1, *numbers))
    axes.set_yticks([])
    axes.set_xlabel("square root of the area of the box, pixels")
    axes.set_ylabel("objects")
