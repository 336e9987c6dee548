"""Annotations in the format of LVIS or COCO, ready to be scored against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from d2_seesaw.evaluation.lvis.annotations import check_lvis_format
from d2_seesaw.evaluation.lvis.coco_as_lvis import (
    TrainImageCounts,
    complete_coco_fields,
    read_train_image_counts,
)

if TYPE_CHECKING:
    from lvis import LVIS


def load_annotations(json_file: str) -> LVIS:
    """The annotations, indexed.

    Raises:
        ValueError: the file is not JSON, or not of this kind.
    """
    from lvis import LVIS

    with naming_the_file(json_file):
        return LVIS(json_file)


@contextmanager
def naming_the_file(json_file: str) -> Iterator[None]:
    """Turn what ``lvis`` raises inside the ``with`` block, on reading it, into a ``ValueError``."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{json_file} is no LVIS or COCO file: it lacks {error}") from error
    except (AssertionError, ValueError) as error:
        raise ValueError(f"{json_file} is no LVIS or COCO file: {error}") from error


def prepare_annotations(
    ground_truth: LVIS,
    json_file: str,
    *,
    train_image_counts: TrainImageCounts | None,
    with_masks: bool,
    registered_counts: Mapping[int, int] | None = None,
) -> None:
    """Complete the annotations of COCO's kind in place, then check them.

    Args:
        ground_truth: The annotations.
        json_file: Their file, for the message.
        train_image_counts: As in ``read_train_image_counts``.
        with_masks: Whether annotations need a segmentation.
        registered_counts: Training images by category id, for annotations without groups.

    Raises:
        ValueError: naming every field that is still missing.
    """
    dataset = ground_truth.dataset
    has_groups = any("frequency" in category for category in dataset["categories"])
    if train_image_counts is None and not has_groups:
        train_image_counts = registered_counts
    complete_coco_fields(dataset, read_train_image_counts(train_image_counts))
    check_lvis_format(dataset, json_file, with_masks=with_masks)
