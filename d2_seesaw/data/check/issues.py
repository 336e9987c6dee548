"""Entries of a dataset that break a rule."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from d2_seesaw.data.annotations.rules import RULES


@dataclass(frozen=True)
class Issue:
    """A problem or notable property of a dataset.

    Attributes:
        kind: The name of a rule in ``RULES``.
        message: A description.
        file_name: The image, if the issue concerns one.
        image_id: Its id in the annotation file.
        annotation_id: The annotation, if the issue concerns one.
        category_id: The category, if the issue concerns one.
    """

    kind: str
    message: str
    file_name: str | None = None
    image_id: Any = None
    annotation_id: Any = None
    category_id: Any = None

    @property
    def severity(self) -> str:
        """``"error"``, ``"warning"`` or ``"information"``."""
        return RULES[self.kind].severity

    def __str__(self) -> str:
        places = {
            "image": self.image_id,
            "annotation": self.annotation_id,
            "category": self.category_id,
        }
        where = [f"{key} {value!r}" for key, value in places.items() if value is not None]
        if self.file_name is not None:
            where.insert(0, self.file_name)
        return f"{', '.join(where)}: {self.message}" if where else self.message


def number_by_kind(issues: Iterable[Issue]) -> dict[str, int]:
    """Count the issues of each kind that occurs, in the order of ``RULES``."""
    numbers = Counter(issue.kind for issue in issues)
    return {kind: numbers[kind] for kind in RULES if numbers[kind]}
