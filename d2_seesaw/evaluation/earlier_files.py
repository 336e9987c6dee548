"""Removal of the files of an earlier evaluation, so that a folder holds one evaluation only."""

from __future__ import annotations

import os
from collections.abc import Iterable

from detectron2.utils.file_io import PathManager

from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.utils.marks import has_mark

REPORT_NAME = "longtail.html"
"""Page of an evaluation, which has the mark of this project."""

TABLES = tuple(
    name.format(task)
    for task in TASKS
    for name in (
        *("per_category_{}.csv", "per_category_{}.json"),
        *("thresholds_{}.csv", "thresholds_{}.json"),
        *("confusion_{}.csv", "longtail_{}.json"),
    )
)
"""Files of the scores of boxes and masks. Those of label maps have another task in their names."""


def remove_scores(folder: str) -> None:
    """Remove the tables, analyses and report of boxes and masks from a folder.

    Raises:
        OSError: one cannot be removed.
    """
    remove_files(folder, TABLES)
    page = os.path.join(folder, REPORT_NAME)
    if os.path.isfile(page) and has_mark(page):
        os.unlink(page)


def remove_files(folder: str, names: Iterable[str]) -> None:
    """Remove those files from a folder that exist, also if it is a URL of ``PathManager``.

    Raises:
        OSError: one cannot be removed.
    """
    for name in names:
        path = os.path.join(folder, name)
        if PathManager.isfile(path):
            PathManager.rm(path)
