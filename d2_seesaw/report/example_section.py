"""The part of the page that shows objects of the tail, and what the model takes them for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from d2_seesaw.evaluation.analysis import ConfusionExample, LongTailAnalysis
from d2_seesaw.evaluation.tables import CategoryResult
from d2_seesaw.report import (
    GROUP_NAMES,
    details,
    group_tag,
    heading,
    paragraph,
    picture_grid,
    section,
)
from d2_seesaw.report.pictures import ExamplePictures

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
