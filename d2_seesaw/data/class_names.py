"""Comparison of the class names of two splits, or of a model and a split.

Ids and positions of classes differ between files, for example after an export from another tool.
Names tie the classes together: the same names in another order are mapped, other names are refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d2_seesaw.utils.text import did_you_mean

_SHOWN = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NameMapping:
    """Positions of given classes in another list of classes.

    Attributes:
        targets: Position in the other list of each given class, None if the list lacks its name.
        message: One line that says what differs; empty if both lists are equal.
        is_complete: Whether no class is missing on either side.
    """

    targets: tuple[int | None, ...]
    message: str
    is_complete: bool

    def log(self) -> None:
        """Log the message: as a warning if classes are missing."""
        if self.message:
            logger.log(logging.INFO if self.is_complete else logging.WARNING, self.message)


def compare_names(
    given: Sequence[str],
    wanted: Sequence[str],
    *,
    source: str,
    target: str,
    allow_missing: bool = False,
) -> NameMapping:
    """Find the classes of one list in another, by name.

    Args:
        given: Names of the classes of the model or of the training split, in order.
        wanted: Names of the classes of the evaluated split, in order. They may be a part of
            ``given``.
        source: Description of ``given``, for messages.
        target: Description of ``wanted``, for messages.
        allow_missing: Whether ``given`` may also be a part of ``wanted``.

    Raises:
        ValueError: ``wanted`` has names that ``given`` lacks, or a name that must be mapped stands
            for several classes.
    """
    given, wanted = [str(name) for name in given], [str(name) for name in wanted]
    if given == wanted:
        return NameMapping(tuple(range(len(given))), "", True)
    absent = [name for name in wanted if name not in set(given)]
    unused = [name for name in given if name not in set(wanted)]
    if absent and (unused or not allow_missing):
        raise ValueError(_difference(given, wanted, absent, unused, source, target))
    for names, place in ((given, source), (wanted, target)):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(
                f"{place} has several classes with the name {repeated[0]!r}, and the classes of "
                f"{source} and {target} differ: they cannot be mapped by name"
            )
    position = {name: index for index, name in enumerate(wanted)}
    message = f"{target} numbers its classes in another order than {source}: mapped by name"
    if unused:
        message = (
            f"{target} has {len(wanted)} of the {len(given)} classes of {source}, mapped by name; "
            f"it lacks {_shown(unused)}"
        )
    elif absent:
        message = (
            f"{source} has {len(given)} of the {len(wanted)} classes of {target}, mapped by name; "
            f"it lacks {_shown(absent)}"
        )
    targets = tuple(position.get(name) for name in given)
    return NameMapping(targets, message, not (unused or absent))


def compare_with_trained(
    given: Sequence[str], wanted: Sequence[str], *, source: str, target: str
) -> NameMapping:
    """Find the classes of a training split in a split that is evaluated during the training.

    Args:
        given: Names of the classes of the training split.
        wanted: Names of the classes of the evaluated split.
        source: Description of the training split, for messages.
        target: Description of the evaluated split, for messages.

    Raises:
        ValueError: as :func:`compare_names`, with what to do about classes that are not trained.
    """
    try:
        return compare_names(given, wanted, source=source, target=target)
    except ValueError as error:
        if {str(name) for name in wanted} <= {str(name) for name in given}:
            raise
        end = "" if str(error).endswith("?") else "."
        raise ValueError(
            f"{error}{end} The evaluated split cannot have categories that are not trained: remove "
            f"them and their objects from {target}, or add them to the categories of {source}"
        ) from error


def counts_by_category(
    categories: Sequence[Mapping[str, Any]],
    counts: Sequence[Mapping[str, Any]],
    json_file: Any,
    source: Any,
) -> dict[Any, int]:
    """Return the training images of each category, which is found by its name.

    A category that the training split does not list has no training images.

    Args:
        categories: Categories of ``json_file``, with "id" and "name".
        counts: Categories of ``source``, with "id", "name" and "image_count".
        json_file: Annotations of the evaluated split.
        source: Annotations of the training split.

    Raises:
        ValueError: both splits have names that the other one lacks.
    """
    ids, train_ids = ([entry["id"] for entry in entries] for entries in (categories, counts))
    names, train_names = ([str(e["name"]) for e in entries] for entries in (categories, counts))
    if ids == train_ids and _are_ids(names, ids) != _are_ids(train_names, train_ids):
        # One of the files has no names, so its categories are called by their ids.
        return {count["id"]: count["image_count"] for count in counts}
    mapping = compare_names(
        train_names, names, source=str(source), target=str(json_file), allow_missing=True
    )
    mapping.log()
    images = dict.fromkeys(ids, 0)
    renumbered = 0
    for target, count in zip(mapping.targets, counts, strict=True):
        if target is not None:
            images[ids[target]] = count["image_count"]
            renumbered += ids[target] != count["id"]
    if renumbered and not mapping.message:
        logger.info(f"{json_file} has other category ids than {source}: mapped by name")
    return images


def _are_ids(names: Sequence[str], ids: Sequence[Any]) -> bool:
    return names == [str(id_) for id_ in ids]


def _difference(
    given: Sequence[str],
    wanted: Sequence[str],
    absent: Sequence[str],
    unused: Sequence[str],
    source: str,
    target: str,
) -> str:
    hint = next((h for name in absent[:_SHOWN] if (h := did_you_mean(name, unused or given))), "")
    text = (
        f"{target} has other classes than {source}: only the former has {_shown(absent)} "
        f"({len(absent)} of {len(wanted)})"
    )
    if unused:
        text += f", only the latter {_shown(unused)} ({len(unused)} of {len(given)})"
    return text + hint


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
