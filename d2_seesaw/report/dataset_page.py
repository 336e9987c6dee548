"""A report on a data set as one HTML page: what is wrong, the long tail, objects, pictures."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.check import DatasetCheck
from d2_seesaw.data.check.issues import ERROR, INFORMATION, KINDS, WARNING
from d2_seesaw.data.check.overview import SIZE_BOUNDS, CategoryOverview, DatasetOverview
from d2_seesaw.data.frequency import GROUPS, MOST_IMAGES_OF_COMMON, MOST_IMAGES_OF_RARE
from d2_seesaw.report import (
    GROUP_COLORS,
    GROUP_NAMES,
    Point,
    Tag,
    bar_chart,
    cards,
    details,
    group_tag,
    page,
    paragraph,
    picture_grid,
    rank_chart,
    section,
    table,
)
from d2_seesaw.report.pictures import sample_pictures

_SEVERITY_COLORS = {ERROR: "#c0392b", WARNING: "#d68910", INFORMATION: "#5d6d7e"}
_BAR = "#5d6d7e"
_ISSUES_SHOWN = 20
_PICTURES_OF_GROUP = 4


def report_page(
    check: DatasetCheck,
    overview: DatasetOverview | None = None,
    pictures: Mapping[str, Sequence[tuple[bytes, str]]] | None = None,
    *,
    title: str = "Data set report",
) -> str:
    """The report as HTML.

    Args:
        check: what was found.
        overview: the data set in numbers, unless its annotations cannot be read at all.
        pictures: of each group, JPEG files and their captions.
        title: of the page.
    """
    parts = [_issues_section(check)]
    if overview is not None:
        parts = [
            _summary_section(check, overview),
            *parts,
            _frequency_section(overview),
            _size_section(overview),
            _repeat_section(overview),
        ]
        shown = [(group, found) for group in GROUPS if (found := (pictures or {}).get(group))]
        if shown:
            parts.append(_picture_section(shown))
        parts.append(_category_section(overview))
    return page(title, parts, subtitle=f"{check.json_file}, images in {check.image_root}")


def group_pictures(
    columns: AnnotationTable,
    overview: DatasetOverview,
    file_name: Callable[[Mapping[str, Any]], str],
) -> dict[str, list[tuple[bytes, str]]]:
    """Pictures of up to four categories of each group, from its rarest to its most frequent.

    Args:
        columns: the annotations.
        overview: of them.
        file_name: the path of an entry of ``columns.images``.
    """
    index_of = {c.category_id: i for i, c in enumerate(overview.categories)}
    pictures = {}
    for group, categories in overview.groups().items():
        shown = sorted((c for c in categories if c.objects), key=lambda c: c.train_images)
        places = np.linspace(0, len(shown) - 1, min(_PICTURES_OF_GROUP, len(shown)))
        chosen = [index_of[shown[round(place)].category_id] for place in places]
        drawn = sample_pictures(columns, chosen, file_name, color=GROUP_COLORS[group])
        pictures[group] = [(jpeg, _caption(overview.categories[i])) for i, jpeg in drawn.items()]
    return pictures


def _caption(category: CategoryOverview) -> str:
    return f"{category.name}: {category.train_images:,} training images"


def _summary_section(check: DatasetCheck, overview: DatasetOverview) -> str:
    groups = {GROUP_NAMES[g]: len(c) for g, c in overview.groups().items()}
    return section(
        "Summary",
        [
            cards({**check.numbers, "errors": check.number_of_errors}),
            cards({f"{name} categories": number for name, number in groups.items()}),
            paragraph(
                f"Rare categories are in at most {MOST_IMAGES_OF_RARE} training images, common "
                f"ones in at most {MOST_IMAGES_OF_COMMON} (LVIS)."
            ),
        ],
    )


def _issues_section(check: DatasetCheck) -> str:
    by_kind = defaultdict(list)
    for issue in check.issues:
        by_kind[issue.kind].append(issue)
    parts = [] if check.images_read else [paragraph("The images were not read.")]
    if check.missing_folders:
        rows = [[folder, number] for folder, number in check.missing_folders.items()]
        parts.append(table(["missing folder", "images"], rows))
    if not by_kind:
        return section("What is wrong", [*parts, paragraph("Nothing was found.")])
    rows = [
        [len(issues), Tag(KINDS[kind][0], _SEVERITY_COLORS[KINDS[kind][0]]), KINDS[kind][1]]
        for kind, issues in by_kind.items()
    ]
    parts.append(table(["number", "severity", "what"], rows))
    for kind, issues in by_kind.items():
        listed = [
            [i.file_name or "", _text(i.image_id), _text(i.annotation_id), i.message]
            for i in issues[:_ISSUES_SHOWN]
        ]
        more = f", the first {_ISSUES_SHOWN}" if issues[_ISSUES_SHOWN:] else ""
        summary = f"{KINDS[kind][1]}: {len(issues):,}{more}"
        parts.append(details(summary, [table(["file", "image", "annotation", "what"], listed)]))
    return section("What is wrong", parts)


def _frequency_section(overview: DatasetOverview) -> str:
    ranked = sorted(overview.categories, key=lambda c: -c.train_images)
    points = [Point(c.train_images, GROUP_COLORS[c.group], _caption(c)) for c in ranked]
    chart = rank_chart(
        points,
        x_label="categories, the most frequent first",
        y_label="training images",
        lines={"frequent above": MOST_IMAGES_OF_COMMON, "rare up to here": MOST_IMAGES_OF_RARE},
    )
    rows = [
        [
            group_tag(group),
            len(categories),
            sum(not c.train_images for c in categories),
            sum(c.objects for c in categories),
            f"{sum(c.objects for c in categories) / max(overview.objects, 1):.1%}",
        ]
        for group, categories in overview.groups().items()
    ]
    header = ["group", "categories", "without a training image", "objects", "of all objects"]
    return section("The long tail", [chart, table(header, rows)])


def _size_section(overview: DatasetOverview) -> str:
    bounds = [f"{a} to {b}" for a, b in itertools.pairwise(SIZE_BOUNDS)]
    names = [f"< {SIZE_BOUNDS[0]}", *bounds, f"{SIZE_BOUNDS[-1]} and up"]
    bars = {
        name: Point(number, _BAR, f"{number:,} objects of {name} pixels")
        for name, number in zip(names, overview.object_sizes, strict=True)
    }
    chart = bar_chart(bars, x_label="root of the area of the box, pixels", y_label="objects")
    return section("Object sizes", [chart])


def _repeat_section(overview: DatasetOverview) -> str:
    ranked = sorted(overview.categories, key=lambda c: -c.images)
    points = [
        Point(c.repeat_factor, GROUP_COLORS[c.group], f"{c.name}: {c.repeat_factor:.2f}")
        for c in ranked
        if c.images
    ]
    chart = rank_chart(
        points,
        x_label="categories, that in most images of this split first",
        y_label="repeat factor",
    )
    numbers = {
        "threshold": overview.threshold,
        "images with objects": overview.trained_images,
        "images an epoch": round(overview.epoch),
        "repeated images": overview.repeated_images,
    }
    text = (
        "If this split is trained on with RepeatFactorSampling: a category in the share f of the "
        "images has the factor max(1, sqrt(threshold / f)), an image the largest of its categories."
    )
    return section("Repeat factors", [paragraph(text), cards(numbers), chart])


def _picture_section(shown: Sequence[tuple[str, Sequence[tuple[bytes, str]]]]) -> str:
    parts = []
    for group, found in shown:
        parts += [f"<h3>{GROUP_NAMES[group].capitalize()}</h3>", picture_grid(found)]
    return section("Pictures", parts)


def _category_section(overview: DatasetOverview) -> str:
    header = ["training images", "group", "category", "id", "images here", "objects here"]
    header += ["median size", "repeat factor"]
    rows = [
        [
            c.train_images,
            group_tag(c.group),
            c.name,
            _text(c.category_id),
            f"{c.images:,}",
            f"{c.objects:,}",
            f"{c.median_size:.0f}",
            f"{c.repeat_factor:.2f}",
        ]
        for c in sorted(overview.categories, key=lambda c: -c.train_images)
    ]
    return section("Categories", [details(f"All {len(rows):,}", [table(header, rows)])])


def _text(value: Any) -> str:
    return "" if value is None else str(value)
