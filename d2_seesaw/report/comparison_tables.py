"""Tables and notes of a comparison of groups of runs, in Markdown and LaTeX, for papers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from d2_seesaw.evaluation.analysis.differences import (
    Difference,
    GroupScore,
    PairComparison,
    RunComparison,
    TaskComparison,
)
from d2_seesaw.report.render import change_text, score_text

TASK_NAMES = {"bbox": "Boxes", "segm": "Masks"}

_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


class Table(NamedTuple):
    """Table of texts.

    Attributes:
        title: Title.
        header: Headings of the columns, the first one of the rows' names.
        rows: Cells.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


def score_with_deviation(score: GroupScore) -> str:
    """Return a mean and its standard deviation over runs: ``24.1 ± 0.3``, or the mean alone."""
    if math.isnan(score.deviation):
        return score_text(score.mean)
    return f"{score_text(score.mean)} ± {score.deviation:.1f}"


def interval_text(difference: Difference) -> str:
    """Return a difference and its interval: ``+1.2 [+0.3, +2.1]``, or the difference alone."""
    if difference.reason:
        return change_text(difference.mean)
    low, high = change_text(difference.low), change_text(difference.high)
    return f"{change_text(difference.mean)} [{low}, {high}]"


def metric_table(task: TaskComparison, groups: dict[str, list[str]]) -> Table:
    """Return the scores of all groups of runs and their differences from the first one."""
    metrics = list(next(iter(task.scores.values())))
    rows = []
    for name, scores in task.scores.items():
        number = len(groups[name])
        title = f"{name}, {number} runs" if number > 1 else name
        rows.append([title, *(score_with_deviation(scores[m]) for m in metrics)])
    for pair in task.pairs:
        cells = [interval_text(d) + _mark(d) for d in pair.metrics]
        rows.append([f"{pair.compared} minus {pair.baseline}", *cells])
    return Table(TASK_NAMES[task.task], ["", *metrics], rows)


def category_table(task: TaskComparison, pair: PairComparison) -> Table:
    """Return the differences of the categories, the greatest gains first."""
    header = ["category", "group", "images", "objects", pair.baseline, pair.compared, "difference"]
    rows = [
        [
            *(d.name, d.frequency, f"{d.images:,}", f"{d.objects:,}"),
            *(score_text(d.first), score_text(d.second), interval_text(d) + _mark(d)),
        ]
        for d in sorted(pair.categories, key=lambda d: (-d.mean, d.category_id))
    ]
    title = f"{TASK_NAMES[task.task]}: categories, {pair.compared} minus {pair.baseline}"
    return Table(title, header, rows)


def _mark(difference: Difference) -> str:
    return " *" if difference.significant else ""


def notes(comparison: RunComparison, task: TaskComparison, pair: PairComparison) -> list[str]:
    """Return sentences on what the intervals of a pair cover, and on chance.

    Args:
        comparison: All groups of runs.
        task: The task.
        pair: The pair.
    """
    drawn = f"{comparison.images:,} images"
    if comparison.image_groups is not None:
        drawn += f" in {comparison.image_groups:,} groups that were drawn as a whole,"
    return [
        _coverage_note(comparison, pair),
        *_metric_notes(pair),
        _category_note(pair),
        f"{drawn} of {comparison.annotations}, {comparison.resamples:,} resamples, seed "
        f"{comparison.seed}.",
    ]


def _coverage_note(comparison: RunComparison, pair: PairComparison) -> str:
    first, second = (len(comparison.groups[g]) for g in (pair.baseline, pair.compared))
    if not pair.seeds:
        models = "these two trained models"
        if max(first, second) > 1:
            models = f"these {first + second} trained models"
        return (
            f"The 95 % intervals cover the choice of the images only: they are about {models}, not "
            "about the methods. Another training may give another difference. To cover it, give "
            "two or more runs of each group."
        )
    runs = f"{first} runs of {pair.baseline}, {second} of {pair.compared}"
    pairing = "not paired by seed"
    if pair.pairs:
        pairing = "paired by seed: " + ", ".join(f"{a} with {b}" for a, b in pair.pairs)
    return (
        f"The 95 % intervals cover the choice of the images and the seed of the training ({runs}; "
        f"{pairing})."
    )


def _metric_notes(pair: PairComparison) -> list[str]:
    known = [d for d in pair.metrics if not d.reason]
    found = [f"No interval of {d.name}: {d.reason}." for d in pair.metrics if d.reason]
    if known:
        found.append(
            "A star marks an interval that excludes 0. The "
            f"{len(known)} interval{'s' * (len(known) > 1)} of {_listed(known)} "
            f"{'are' if len(known) > 1 else 'is'} not corrected for their number: where nothing "
            "differs, each excludes 0 with a probability of 5 %."
        )
    return found


def _listed(differences: Sequence[Difference]) -> str:
    return ", ".join(d.name for d in differences)


def _category_note(pair: PairComparison) -> str:
    tested = pair.with_interval
    without = len(pair.categories) - len(tested)
    if not tested:
        reason = pair.categories[0].reason if pair.categories else "there is none with objects"
        return f"No category has an interval: {reason}."
    outside = sum(d.excludes_zero for d in tested)
    kept = sum(d.significant for d in tested)
    text = (
        f"Where nothing differs, the intervals of {0.05 * len(tested):.1f} of {len(tested):,} "
        f"categories exclude 0 by chance; here {outside:,}. A star marks categories that differ at "
        f"a false discovery rate of 5 % (Benjamini-Hochberg): {kept:,}."
    )
    if without:
        reason = next(d.reason for d in pair.categories if d.reason)
        text += f" {without:,} more have no interval: {reason}."
    return text


def markdown(comparison: RunComparison) -> str:
    """Return all tables and notes in Markdown."""
    parts = []
    for task in comparison.tasks:
        parts.append(_markdown_table(metric_table(task, comparison.groups)))
        parts += ["\n".join(f"* {_escaped(n)}" for n in _all_notes(comparison, task))]
        parts += [_markdown_table(category_table(task, pair)) for pair in task.pairs]
    return "\n\n".join(parts) + "\n"


def _all_notes(comparison: RunComparison, task: TaskComparison) -> list[str]:
    """Return the notes of all pairs, each of which names its pair if there are several."""
    found = []
    for pair in task.pairs:
        prefix = f"{pair.compared}: " if len(task.pairs) > 1 else ""
        found += [prefix + note for note in notes(comparison, task, pair)]
    return list(dict.fromkeys(found))


def _markdown_table(table: Table) -> str:
    header = [_escaped(c) for c in table.header]
    rows = [[_escaped(row[0]), *row[1:]] for row in table.rows]  # the rest is numbers
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return f"## {_escaped(table.title)}\n\n" + "\n".join(f"| {' | '.join(x)} |" for x in lines)


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text.replace("\n", " "))


def latex(comparison: RunComparison) -> str:
    """Return the tables of AP as ``tabular`` of LaTeX with booktabs, with the notes as comments."""
    parts = []
    for task in comparison.tasks:
        table = metric_table(task, comparison.groups)
        body = [_latex_row(row) for row in table.rows]
        runs = len(task.scores)
        lines = [
            f"% {table.title}",
            *(f"% {' '.join(note.split())}" for note in _all_notes(comparison, task)),
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            _latex_row(table.header),
            r"\midrule",
            *body[:runs],
            r"\midrule",
            *body[runs:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    name, *numbers = map(_latex_text, cells)
    numbers = [number.replace(" *", "$^*$") for number in numbers]
    row = " & ".join([name, *numbers]) + r" \\"
    # LaTeX takes "[" or "*" after a rule or the end of a row, also behind spaces, for an option.
    return "{}" + row if row.lstrip().startswith(("[", "*")) else row


def _latex_text(text: str) -> str:
    escaped = "".join(_LATEX.get(c, c) for c in text.replace("\n", " "))
    escaped = re.sub(r"(?<!\w)-(?=[\d.])", "$-$", escaped)
    return escaped.replace("±", r"$\pm$")
