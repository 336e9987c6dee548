"""Names of categories that are easily confused."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from d2_seesaw.data.annotations.coco import ParsedFile
from d2_seesaw.data.check.issues import Issue

_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def check_names(parsed: ParsedFile) -> list[Issue]:
    """Check the names of categories: spaces around them, numbers, and names that are alike."""
    categories = parsed.table.categories
    nameless = {p.category_id for p in parsed.problems if p.kind == "missing_name"}
    named = [category for category in categories if category["id"] not in nameless]
    return [*_single_names(named), *_similar_names(named)]


def _single_names(categories: Sequence[Mapping[str, Any]]) -> Iterator[Issue]:
    for category in categories:
        name = category["name"]
        if name != name.strip():
            message = f"the name {name!r} begins or ends with a space"
            yield Issue("name_with_spaces", message, category_id=category["id"])
        if name.strip().isdecimal():
            message = f"the name is a number, {name!r}"
            yield Issue("numeric_name", message, category_id=category["id"])


def _similar_names(categories: Sequence[Mapping[str, Any]]) -> Iterator[Issue]:
    first: dict[str, Mapping[str, Any]] = {}
    for category in categories:
        key = _BETWEEN_WORDS.sub("", category["name"].casefold())
        if key in first and first[key]["name"] != category["name"]:
            yield _similar(first[key], category, "case, spaces, hyphens or underscores")
        first.setdefault(key, category)
    for key, category in first.items():
        plurals = [key + "s", key + "es", key[:-1] + "ies"][: 2 + key.endswith("y")]
        for plural in plurals if len(key) > 2 and not key.isdecimal() else ():
            if plural in first:
                yield _similar(category, first[plural], "singular and plural")


def _similar(one: Mapping[str, Any], other: Mapping[str, Any], how: str) -> Issue:
    message = f"{other['name']!r} and category {one['id']!r}, {one['name']!r}, differ in {how} only"
    return Issue("similar_names", message, category_id=other["id"])
