"""Report on a dataset: issues, the long tail, object sizes and pictures."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from d2_seesaw.data.annotations.rules import ERROR, INFORMATION, RULES, WARNING
from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.check import DatasetCheck
from d2_seesaw.data.check.issues import Issue
from d2_seesaw.data.check.overview import DatasetOverview
from d2_seesaw.data.frequency import MOST_IMAGES_OF_COMMON, MOST_IMAGES_OF_RARE
from d2_seesaw.data.image_files import MAX_PIXELS, ImageFolder
from d2_seesaw.report import dataset_figures
from d2_seesaw.report.pictures import sample_pictures
from d2_seesaw.report.render import count_text, render
from d2_seesaw.report.series import GROUP_COLORS
from d2_seesaw.utils.files import write_text

_SEVERITY_COLORS = {ERROR: "#c0392b", WARNING: "#d68910", INFORMATION: "#5d6d7e"}
_ISSUES_SHOWN = 20
_PICTURES_OF_GROUP = 4

logger = logging.getLogger(__name__)


def write_dataset_report(
    path: str | os.PathLike[str],
    check: DatasetCheck,
    overview: DatasetOverview | None = None,
    columns: AnnotationTable | None = None,
    *,
    title: str = "Dataset report",
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Write the report on a dataset as a single HTML file.

    Args:
        path: File to write.
        check: Result of the check.
        overview: Statistics of the dataset, if its annotations can be read.
        columns: The annotations, for pictures of the images; there are no pictures if None.
        title: Title of the page.
        follow_links: Show images behind links that lead out of the folder of images, too.
        max_pixels: Limit of pixels of an image to show.
    """
    pictures, failures = None, []
    if overview is not None and columns is not None:
        folder = ImageFolder(check.image_root, follow_links, max_pixels)
        pictures = group_pictures(columns, overview, folder, failures)
    write_text(path, dataset_page(check, overview, pictures, title=title))
    if failures:
        logger.warning(f"{len(failures)} images are not shown in {path}, the first: {failures[0]}")


def dataset_page(
    check: DatasetCheck,
    overview: DatasetOverview | None = None,
    pictures: Mapping[str, Sequence[tuple[bytes, str]]] | None = None,
    *,
    title: str = "Dataset report",
) -> str:
    """Return the report on a dataset as HTML.

    Args:
        check: Result of the check.
        overview: Statistics of the dataset, if its annotations can be read.
        pictures: JPEG files and their captions by frequency group.
        title: Title of the page.
    """
    by_kind: defaultdict[str, list[Issue]] = defaultdict(list)
    for issue in check.issues:
        by_kind[issue.kind].append(issue)
    numbers = {**check.numbers, "errors": check.number_of_errors}
    context = {}
    if overview is not None:
        context = {
            "groups": overview.groups(),
            "categories": sorted(overview.categories, key=lambda c: -c.train_images),
            "sampling": {
                "threshold": f"{overview.threshold:.3g}",
                "images with objects": count_text(overview.trained_images),
                "images per epoch": count_text(round(overview.epoch)),
                "repeated images": count_text(overview.repeated_images),
            },
        }
    return render(
        "dataset",
        title=title,
        subtitle=f"{check.json_file}, images in {check.image_root}",
        check=check,
        numbers={name: count_text(number) for name, number in numbers.items()},
        issues=by_kind,
        issues_shown=_ISSUES_SHOWN,
        rules=RULES,
        severity_colors=_SEVERITY_COLORS,
        overview=overview,
        pictures=pictures or {},
        bounds=(MOST_IMAGES_OF_RARE, MOST_IMAGES_OF_COMMON),
        figures=dataset_figures,
        **context,
    )


def group_pictures(
    columns: AnnotationTable,
    overview: DatasetOverview,
    folder: ImageFolder,
    failures: list[str] | None = None,
) -> dict[str, list[tuple[bytes, str]]]:
    """Draw up to four categories of each group, from its rarest to its most frequent.

    Args:
        columns: The annotations.
        overview: Their statistics.
        folder: Folder of the images.
        failures: Gets one reason for each image that is left out.

    Returns:
        JPEG files and their captions by frequency group.
    """
    path_of = image_paths(columns.images, str(folder.root))
    index_of = {c.category_id: i for i, c in enumerate(overview.categories)}
    pictures = {}
    for group, categories in overview.groups().items():
        shown = sorted((c for c in categories if c.objects), key=lambda c: c.train_images)
        places = np.linspace(0, len(shown) - 1, min(_PICTURES_OF_GROUP, len(shown)))
        chosen = {index_of[shown[i].category_id]: shown[i] for i in map(round, places.tolist())}
        drawn = sample_pictures(
            columns,
            list(chosen),
            path_of,
            folder=folder,
            color=GROUP_COLORS[group],
            failures=failures,
        )
        pictures[group] = [
            (jpeg, f"{chosen[i].name}: {chosen[i].train_images:,} training images")
            for i, jpeg in drawn.items()
        ]
    return pictures
