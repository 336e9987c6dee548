"""Report on one evaluation."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from d2_seesaw.data.frequency import GROUP_NAMES, GROUPS
from d2_seesaw.data.image_files import MAX_PIXELS, ImageFolder
from d2_seesaw.evaluation.analysis import (
    CategoryThreshold,
    ConfusionExample,
    LongTailAnalysis,
    ThresholdSummary,
)
from d2_seesaw.evaluation.analysis.confusion import (
    TailConfusion,
    confusions_with_more_frequent,
)
from d2_seesaw.evaluation.lvis.rules import AP_METRICS, AR_METRICS
from d2_seesaw.evaluation.tables import (
    CategoryResult,
    columns_of,
    group_counts,
    most_frequent_first,
)
from d2_seesaw.report import figures
from d2_seesaw.report.pictures import ExamplePictures
from d2_seesaw.report.render import count_text, render, score_text
from d2_seesaw.report.series import OUTCOME_NAMES, calibration_means, group_title, outcome_counts
from d2_seesaw.utils.files import write_text

# Confusions that are visible without a click, by the group of the annotated category.
_PAIRS_SHOWN = {"r": 30, "c": 10, "f": 0, "n/a": 10}
_PAIRS_LISTED = 300
_EXTREMES = 8
_RULES = {
    "best-f1": "best F1 of each category",
    "precision=0.9": "precision of at least 90 %",
    "recall=0.8": "recall of at least 80 %",
    "0.5": "0.5 for all categories",
}
# Columns of thresholds that the table of all categories shows. The CSV file has all.
_THRESHOLD_COLUMNS = ("threshold", "chosen_on", "precision", "recall", "F1_cross_fitted")
FEWEST_OBJECTS = 10
"""Objects of a category from which on it can be among the best, worst or most changed ones."""

logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """Picture of an example.

    Attributes:
        jpeg: The file.
        category: Annotated category.
        predicted: Category of its label, None for a missed object.
        score: Score of the detection, if there is one.
    """

    jpeg: bytes
    category: CategoryResult
    predicted: CategoryResult | None
    score: float | None


def write_evaluation_report(
    path: str | os.PathLike[str],
    analyses: Sequence[LongTailAnalysis],
    *,
    images: Sequence[Mapping[str, Any]] = (),
    image_root: str | os.PathLike[str] | None = None,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    title: str = "Long-tail report",
    subtitle: str | None = None,
) -> None:
    """Write the report on one evaluation as a single HTML file.

    Args:
        path: File to write.
        analyses: Analyses of its tasks, in the order of the page.
        images: Images of the annotation file, for pictures of the examples.
        image_root: Folder of the images. There are no pictures if it does not exist.
        follow_links: Show images behind links that lead out of this folder, too.
        max_pixels: Limit of pixels of an image to show.
        title: Title of the page.
        subtitle: Text below the title; by default the folder of the file.
    """
    pictures = None
    if image_root is not None and os.path.isdir(image_root):
        folder = ImageFolder(image_root, follow_links, max_pixels)
        pictures = ExamplePictures(images, folder)
    if subtitle is None:
        subtitle = os.path.dirname(path)
    page = evaluation_page(analyses, title=title, subtitle=subtitle, pictures=pictures)
    write_text(path, page)
    if pictures is not None and pictures.failures:
        logger.warning(
            f"{len(pictures.failures)} pictures of {path} could not be drawn, the first: "
            f"{pictures.failures[0]}"
        )


def evaluation_page(
    analyses: Sequence[LongTailAnalysis],
    *,
    title: str = "Long-tail report",
    subtitle: str = "",
    pictures: ExamplePictures | None = None,
) -> str:
    """Return the report on one evaluation as HTML.

    Args:
        analyses: Analyses of its tasks.
        title: Title of the page.
        subtitle: Text below the title.
        pictures: Drawer of the examples; the page has no pictures if None.
    """
    tasks = [{**task_context(analysis), "pictures": None} for analysis in analyses]
    for task in tasks:
        analysis = task["analysis"]
        task |= {
            "metrics": _metric_cards(analysis),
            "counts": {
                "images": count_text(analysis.images),
                "detections": count_text(analysis.detections),
                "objects": count_text(sum(c.gt_instances for c in analysis.categories)),
            },
            "outcomes": outcome_counts(analysis),
            "confusions": _confusion_lists(confusions_with_more_frequent(analysis)),
            "curves": [
                (c, group_title(c.group), calibration_means(c)) for c in analysis.calibration
            ],
            "extremes": {group: _extremes(analysis, group) for group in outcome_counts(analysis)},
            "categories": most_frequent_first(analysis.categories),
            "correct": _correct_labels(analysis),
            "thresholds": {},
            "rules": _rule_rows(analysis),
        }
        if analysis.thresholds is not None:
            task["thresholds"] = {c.category_id: c for c in analysis.thresholds.categories}
        if pictures is not None:
            task["pictures"] = _draw_examples(analysis, pictures)
    return render(
        "evaluation",
        title=title,
        subtitle=subtitle,
        tasks=tasks,
        columns=columns_of(CategoryResult),
        threshold_columns={
            name: columns_of(CategoryThreshold)[name] for name in _THRESHOLD_COLUMNS
        },
        outcome_names=OUTCOME_NAMES,
        fewest_objects=FEWEST_OBJECTS,
        figures=figures,
    )


def task_context(analysis: LongTailAnalysis) -> dict[str, Any]:
    """Return what every page shows of a task: its name, and the categories without an AP."""
    names = {"bbox": "Boxes", "segm": "Masks"}
    return {
        "name": names.get(analysis.task, analysis.task),
        "analysis": analysis,
        "without_ap": sum(math.isnan(c.AP) for c in analysis.categories),
    }


def evaluated_text(analysis: LongTailAnalysis, group: str) -> str:
    """Return how many categories of a group have an AP: ``331 of 337``."""
    counts = group_counts(analysis.categories)
    return f"{counts[f'evaluated-{group}']:.0f} of {counts[f'categories-{group}']:.0f}"


def _metric_cards(analysis: LongTailAnalysis) -> list[dict[str, str]]:
    scores, recalls = (
        {metric: score_text(analysis.metrics.get(metric, math.nan)) for metric in metrics}
        for metrics in (AP_METRICS, AR_METRICS)
    )
    group_scores = {
        f"AP{g}, of {evaluated_text(analysis, g)} {GROUP_NAMES[g]} categories": scores.pop(f"AP{g}")
        for g in GROUPS
    }
    return [scores, group_scores, recalls]


def _confusion_lists(pairs: Sequence[TailConfusion]) -> list[tuple[str, list, list, int]]:
    """Return by group its name, confusions to show, others to fold, and how many are left out."""
    lists = []
    for group, number in _PAIRS_SHOWN.items():
        group_pairs = [pair for pair in pairs if pair.category.frequency == group]
        if group_pairs:
            left_out = max(0, len(group_pairs) - _PAIRS_LISTED)
            folded = group_pairs[number:_PAIRS_LISTED]
            lists.append((GROUP_NAMES[group], group_pairs[:number], folded, left_out))
    return lists


def _extremes(analysis: LongTailAnalysis, group: str) -> dict[str, list[CategoryResult]]:
    """Return the best and the worst categories of a group, by heading; empty lists are left out."""
    candidates = [
        c
        for c in analysis.categories
        if c.frequency == group and c.gt_instances >= FEWEST_OBJECTS and not math.isnan(c.AP)
    ]
    ranked = sorted(candidates, key=lambda c: -c.AP)
    number = min(_EXTREMES, (len(ranked) + 1) // 2)  # no category is in both lists
    lists = {"best": ranked[:number], "worst": ranked[number:][::-1][:_EXTREMES]}
    return {name: listed for name, listed in lists.items() if listed}


def _correct_labels(analysis: LongTailAnalysis) -> Counter[int]:
    correct: Counter[int] = Counter()
    for confusion in analysis.confusions:
        if confusion.predicted_id == confusion.category_id:
            correct[confusion.category_id] += confusion.objects
    return correct


def _rule_rows(
    analysis: LongTailAnalysis,
) -> list[tuple[str, ThresholdSummary, dict[str, float]]]:
    """Return by rule its name, its means over all categories, and F1 of the groups."""
    if analysis.thresholds is None:
        return []
    found = {(s.rule, s.group): s for s in analysis.thresholds.summaries}
    return [
        (_RULES.get(rule, rule), summary, {g: found[rule, g].F1 for g in GROUPS})
        for (rule, group), summary in found.items()
        if group == "all"
    ]


def _draw_examples(analysis: LongTailAnalysis, pictures: ExamplePictures) -> dict[str, Any]:
    categories = {category.category_id: category for category in analysis.categories}
    groups = {i: category.frequency for i, category in categories.items()}
    drawn: defaultdict[str, list[Picture]] = defaultdict(list)
    for example in analysis.examples:
        if (jpeg := pictures.draw(example, groups)) is not None:
            drawn[_picture_heading(example, groups)].append(
                Picture(
                    jpeg,
                    categories[example.category_id],
                    None if example.predicted_id is None else categories[example.predicted_id],
                    example.score,
                )
            )
    number = len(analysis.examples)
    return {"total": number, "absent": number - sum(map(len, drawn.values())), "groups": drawn}


def _picture_heading(example: ConfusionExample, groups: Mapping[int, str]) -> str:
    kind = "Missed objects" if example.predicted_id is None else "Objects"
    return f"{kind} of {GROUP_NAMES[groups[example.category_id]]} categories"
