"""The long tail of an evaluation as one HTML page, with objects of the tail in pictures."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from detectron2.utils.file_io import PathManager

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import ConfusionExample, LongTailAnalysis
from d2_seesaw.evaluation.analysis.confusion import (
    RIGHT,
    TailConfusion,
    confusions_with_more_frequent,
)
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.evaluation.tables import CategoryResult, group_counts
from d2_seesaw.report import (
    GROUP_NAMES,
    Numeral,
    cards,
    columns,
    details,
    group_tag,
    heading,
    page,
    paragraph,
    picture_grid,
    section,
    table,
)
from d2_seesaw.report.pictures import ExamplePictures
from d2_seesaw.report.series import (
    OUTCOME_NAMES,
    TASK_NAMES,
    calibration_means,
    count_text,
    group_title,
    outcome_counts,
    score_text,
)
from d2_seesaw.report.svg.analysis import ap_chart, outcome_chart, reliability_chart

_SHOWN = 12  # of each heading, in three rows; the rest on a click

EXAMPLE_TEXT = (
    "The dashed box is the object as it is annotated, the plain one the detection with the highest "
    "score that lies on it, both in the colours of their groups; of one group, the detection is "
    "black. Of each pair of categories these are the objects that the model is most sure about, "
    "and of the missed ones the largest. In federated data nobody looked for most categories in "
    "most images: an object that is named otherwise may be right as well, as a mug is a cup."
)
NO_EXAMPLE_TEXT = (
    "There is nothing to show: no object of a rare or common category is taken for one of a more "
    "frequent category and no rare one is missed, or the evaluation is of an earlier version, "
    "which kept no examples."
)

REPORT_NAME = "longtail.html"

# Pairs that are shown at once, by the group of what is swallowed: the tail is what matters here.
_PAIRS_SHOWN = {"r": 30, "c": 10, "f": 0, "n/a": 10}
_PAIRS_LISTED = 300
_EXTREMES = 8
FEWEST_OBJECTS = 10
"""Of a category that is listed among the best, the worst, or those that changed most."""

AP_TEXT = (
    "A point is a category; the line is the mean over categories with about as many training "
    "images. Few objects make a noisy AP: single points far from the line say little."
)
OUTCOME_TEXT = (
    "Every object goes by the detection with the highest score that lies on it (IoU of at least "
    "0.5), of any category: named right, taken for another category, or missed. In federated data "
    "nobody looked for most categories in most images: what an object is taken for may be right, "
    "too."
)
CALIBRATION_TEXT = (
    "A point stands for the detections of about one score. On the dotted line scores are "
    "probabilities of being right (IoU of at least 0.5); below it the model is too sure. Points of "
    "few detections are noise. The calibration error is the mean distance of the detections from "
    "the dotted line. Detections of categories that nobody looked for in the image do not count, "
    "and objects without a detection are not seen here."
)


def example_section(analysis: LongTailAnalysis, task: str, pictures: ExamplePictures) -> str:
    """A picture of each example, by the group of the object; those missed are last.

    Args:
        analysis: With the examples.
        task: What the task is called.
        pictures: Draws them. How many could not be drawn is said.
    """
    categories = {category.category_id: category for category in analysis.categories}
    groups = {i: category.frequency for i, category in categories.items()}
    drawn: defaultdict[str, list[tuple[bytes, list[str]]]] = defaultdict(list)
    for example in analysis.examples:
        jpeg = pictures.draw(example, groups)
        if jpeg is not None:
            kind = f"{GROUP_NAMES[groups[example.category_id]]} categories"
            missed = "Missed objects" if example.predicted_id is None else "Objects"
            drawn[f"{missed} of {kind}"].append((jpeg, _caption(example, categories)))
    parts = [paragraph(EXAMPLE_TEXT if analysis.examples else NO_EXAMPLE_TEXT)]
    number, absent = len(analysis.examples), len(analysis.examples) - sum(map(len, drawn.values()))
    if absent:
        parts.append(paragraph(f"{absent} of {number} images could not be read or drawn."))
    for title, found in drawn.items():
        parts += [heading(title), *_grids(found)]
    return section(f"{task}: pictures of what is swallowed or missed", parts)


def _grids(found: Sequence[tuple[bytes, list[str]]]) -> list[str]:
    first, rest = found[:_SHOWN], found[_SHOWN:]
    grids = [picture_grid(first)]
    if rest:
        grids.append(details(f"{len(rest)} more", [picture_grid(rest)]))
    return grids


def _caption(example: ConfusionExample, categories: Mapping[int, CategoryResult]) -> list[str]:
    category = categories[example.category_id]
    words = [category.name, group_tag(category.frequency)]
    if example.predicted_id is None:
        return [*words, "missed"]
    by = categories[example.predicted_id]
    words += ["taken for", by.name, group_tag(by.frequency)]
    return words if example.score is None else [*words, f"{example.score:.2f}"]


def analysis_page(
    analyses: Sequence[LongTailAnalysis],
    *,
    title: str = "Long-tail report",
    subtitle: str = "",
    pictures: ExamplePictures | None = None,
) -> str:
    """The page of an evaluation.

    Args:
        analyses: of its tasks.
        title: of the page.
        subtitle: below it.
        pictures: draws the examples, if there shall be any.
    """
    parts = []
    for analysis in analyses:
        task = task_name(analysis)
        parts += [
            _summary_section(analysis, task),
            section(
                f"{task}: AP and training images",
                [paragraph(AP_TEXT), ap_chart(analysis), paragraph(not_drawn_text(analysis))],
            ),
            _outcome_section(analysis, task),
            _swallowed_section(analysis, task),
            *([] if pictures is None else [example_section(analysis, task, pictures)]),
            _calibration_section(analysis, task),
            _extremes_section(analysis, task),
            _category_section(analysis, task),
        ]
    return page(title, parts, subtitle=subtitle)


def write_report(
    folder: str | os.PathLike[str],
    analyses: Sequence[LongTailAnalysis],
    *,
    pictures: ExamplePictures | None = None,
) -> str:
    """Write ``longtail.html`` into a folder, and return its path."""
    path = os.path.join(folder, REPORT_NAME)
    content = analysis_page(analyses, subtitle=str(folder), pictures=pictures).encode()
    with cast("Any", PathManager.open(path, "wb")) as file:
        file.write(content)
    return path


def task_name(analysis: LongTailAnalysis) -> str:
    """What a task is called in headings."""
    return TASK_NAMES.get(analysis.task, analysis.task)


def evaluated_text(analysis: LongTailAnalysis, group: str) -> str:
    """Of how many categories of a group the AP is a mean: ``331 of 337``."""
    counts = group_counts(analysis.categories)
    return f"{counts[f'evaluated-{group}']:.0f} of {counts[f'categories-{group}']:.0f}"


def not_drawn_text(analysis: LongTailAnalysis) -> str:
    """Which categories a chart of AP leaves out."""
    absent = sum(math.isnan(c.AP) for c in analysis.categories)
    return (
        f"{absent:,} of {len(analysis.categories):,} categories have no object in these images "
        "and no AP: they are not drawn."
    )


def category_cells(category: CategoryResult) -> list[Any]:
    """Name, group and training images, for a row of a table."""
    images = Numeral(count_text(category.train_images))
    return [category.name, group_tag(category.frequency), images]


def _summary_section(analysis: LongTailAnalysis, task: str) -> str:
    numbers = {
        "images": analysis.images,
        "detections": analysis.detections,
        "objects": sum(c.gt_instances for c in analysis.categories),
    }
    general = [m for m in METRICS if m[2:] not in GROUPS]
    metrics = {m: score_text(analysis.metrics.get(m, math.nan)) for m in general}
    groups = {
        f"AP{g}, of {evaluated_text(analysis, g)} {GROUP_NAMES[g]} categories": score_text(
            analysis.metrics.get(f"AP{g}", math.nan)
        )
        for g in GROUPS
    }
    text = (
        "AP is the mean over IoU thresholds from 0.5 to 0.95 and over categories with ground "
        "truth, in percent, by LVIS's rules. n/a means that there is no ground truth to score; a "
        "group of few evaluated categories has a noisy AP."
    )
    return section(
        f"{task}: metrics", [cards(metrics), cards(groups), cards(numbers), paragraph(text)]
    )


def _outcome_section(analysis: LongTailAnalysis, task: str) -> str:
    counts = outcome_counts(analysis)
    possible = dict.fromkeys(outcome for of_group in counts.values() for outcome in of_group)
    rows = [[group_tag(group), *of_group.values()] for group, of_group in counts.items()]
    header = ["objects", *(OUTCOME_NAMES[outcome] for outcome in possible)]
    chart = outcome_chart({"": analysis})
    return section(
        f"{task}: what becomes of objects", [paragraph(OUTCOME_TEXT), chart, table(header, rows)]
    )


def _swallowed_section(analysis: LongTailAnalysis, task: str) -> str:
    parts = [
        paragraph(
            "Categories whose objects are taken for those of a category with more training images. "
            "Where nobody looked for that one it may be right, too, as a mug is a cup; shares of a "
            "handful of objects are noise."
        )
    ]
    pairs = confusions_with_more_frequent(analysis)
    for group, shown in _PAIRS_SHOWN.items():
        of_group = [pair for pair in pairs if pair.category.frequency == group]
        if not of_group:
            continue
        parts.append(heading(f"Objects of {GROUP_NAMES[group]} categories"))
        if shown:
            parts.append(_pair_table(of_group[:shown]))
        rest = of_group[shown:_PAIRS_LISTED]
        if rest:
            left_out = len(of_group) - shown - len(rest)
            more = f", without the last {left_out:,}" if left_out else ""
            summary = f"{len(rest):,} {'more ' * bool(shown)}pairs{more}"
            parts.append(details(summary, [_pair_table(rest)]))
    if not pairs:
        parts.append(paragraph("No object is taken for one of a more frequent category."))
    return section(f"{task}: what swallows the tail", parts)


def _pair_table(pairs: Sequence[TailConfusion]) -> str:
    header = ["category", "group", "training images", "taken for", "group", "training images"]
    rows = [
        [
            *category_cells(pair.category),
            *category_cells(pair.by),
            Numeral(f"{pair.objects:,} of {pair.of:,}"),
            Numeral(f"{pair.share:.0%}"),
        ]
        for pair in pairs
    ]
    return table([*header, "objects", "share"], rows)


def _calibration_section(analysis: LongTailAnalysis, task: str) -> str:
    rows = []
    for calibration in analysis.calibration:
        means = calibration_means(calibration)
        rows.append(
            [
                group_title(calibration.group),
                means.detections,
                Numeral(score_text(100 * means.mean_score)),
                Numeral(score_text(100 * means.precision)),
                Numeral(score_text(calibration.error)),
            ]
        )
    header = ["predicted categories", "detections", "mean score, %", "precision, %", "error, %"]
    chart = columns([reliability_chart(analysis), table(header, rows)])
    return section(f"{task}: calibration", [paragraph(CALIBRATION_TEXT), chart])


def _extremes_section(analysis: LongTailAnalysis, task: str) -> str:
    parts = [
        paragraph(
            f"Of the categories with at least {FEWEST_OBJECTS} objects here: the AP of fewer "
            "would be chance."
        )
    ]
    for group in outcome_counts(analysis):
        ranked = sorted(
            (
                c
                for c in analysis.categories
                if c.frequency == group
                and c.gt_instances >= FEWEST_OBJECTS
                and not math.isnan(c.AP)
            ),
            key=lambda c: -c.AP,
        )
        parts.append(heading(GROUP_NAMES[group].capitalize()))
        if not ranked:
            parts.append(paragraph("No category has as many."))
            continue
        # Where both lists would meet, each takes its half.
        number = min(_EXTREMES, (len(ranked) + 1) // 2)
        best, worst = ranked[:number], ranked[number:][::-1][:_EXTREMES]
        shown = {"best": best, "worst": worst}
        parts.append(columns([_short_table(n, listed) for n, listed in shown.items() if listed]))
    return section(f"{task}: best and worst categories", parts)


def _short_table(name: str, categories: Sequence[CategoryResult]) -> str:
    rows = [
        [c.name, Numeral(count_text(c.train_images)), c.gt_instances, Numeral(score_text(c.AP))]
        for c in categories
    ]
    return table([name, "training images", "objects here", "AP"], rows)


def _category_section(analysis: LongTailAnalysis, task: str) -> str:
    right: Counter[int] = Counter()
    for confusion in analysis.confusions:
        if confusion.predicted_id == confusion.category_id:
            right[confusion.category_id] += confusion.objects
    rows = [
        [
            *category_cells(c),
            str(c.category_id),
            c.gt_images,
            c.gt_instances,
            right[c.category_id],
            *(Numeral(score_text(value)) for value in (c.AP, c.AP50, c.AR)),
        ]
        for c in sorted(analysis.categories, key=lambda c: -(c.train_images or 0))
    ]
    header = ["category", "group", "training images", "id", "images here", "objects here"]
    header += [OUTCOME_NAMES[RIGHT], "AP", "AP50", "AR"]
    return section(f"{task}: categories", [details(f"All {len(rows):,}", [table(header, rows)])])
