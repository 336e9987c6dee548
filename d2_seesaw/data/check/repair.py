"""Repair of annotation files: a copy in which whatever can be mended safely is mended.

The repair works on the content of the JSON file, so it also mends files that are refused. All other
fields are kept, in their order.
"""

import json
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from d2_seesaw.data.annotations.coco import read_content
from d2_seesaw.data.annotations.schema import FEDERATED, other_form
from d2_seesaw.data.check.box_repair import BoxColumns
from d2_seesaw.data.check.values import as_flag, as_numbers, is_number
from d2_seesaw.utils.files import atomic_write

_SHOWN = 60
_OPTIONAL = {
    "images": ("coco_url", *FEDERATED),
    "annotations": ("area", "bbox", "ignore", "segmentation"),
    "categories": ("image_count", "frequency"),
}
_NUMBERS = {
    "images": ("height", "width"),
    "annotations": ("area", "bbox", "segmentation"),
    "categories": ("image_count",),
}
_FLAGS = ("iscrowd", "ignore")


@dataclass(frozen=True)
class Change:
    """A change of an annotation file.

    Attributes:
        section: "images", "annotations", "categories" or "file".
        entry: The id of the entry, or its position if it has none.
        field: The field.
        old: The value in the given file; None if it was missing.
        new: The value in the mended file; None if the field or entry is left out.
        reason: The fault.
    """

    section: str
    entry: Any
    field: str
    old: Any
    new: Any
    reason: str

    def __str__(self) -> str:
        where = "file" if self.section == "file" else f"{self.section} {self.entry!r}"
        old, new = (_short(value) for value in (self.old, self.new))
        return f"{where}, {self.field}: {old} -> {new}"


@dataclass(frozen=True)
class Repair:
    """The changes of a repair.

    Attributes:
        json_file: The given file.
        mended_file: The file that was written.
        changes: All changes.
    """

    json_file: str
    mended_file: str
    changes: Sequence[Change]

    def to_json(self) -> dict[str, Any]:
        """Return everything in a JSON-serializable form."""
        return {
            "json_file": self.json_file,
            "mended_file": self.mended_file,
            "changes": [asdict(change) for change in self.changes],
        }

    def text(self, limit: int = 10) -> str:
        """Return a summary with at most ``limit`` changes of each reason."""
        lines = [f"{self.mended_file}: {len(self.changes):,} changes of {self.json_file}"]
        for reason, number in Counter(change.reason for change in self.changes).items():
            lines.append(f"  {number:,} x {reason}")
            found = [change for change in self.changes if change.reason == reason]
            lines += [f"    {change}" for change in found[:limit]]
            if found[limit:]:
                lines.append(f"    ... and {number - limit:,} more")
        return "\n".join(lines)


def repair_file(json_file: str | Path, mended_file: str | Path) -> Repair:
    """Write a mended copy of an annotation file.

    Mended are: text encodings other than UTF-8, numbers and flags as text or booleans, null instead
    of a missing field, references to ids in another form, unused categories with the name of
    another one, boxes that are missing or contradict their masks, boxes slightly beyond the image,
    and areas that are missing or far off.

    Args:
        json_file: the file to mend, which stays as it is.
        mended_file: the file to write.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not valid JSON with an object, or both files are the same.
    """
    if os.path.realpath(json_file) == os.path.realpath(mended_file):
        raise ValueError(f"the mended copy must be another file than {json_file}")
    text = Path(json_file).read_bytes()
    content, encoding = read_content(text, str(json_file)), json.detect_encoding(text)
    changes = mend(content)
    if encoding != "utf-8":
        changes.insert(0, Change("file", None, "encoding", encoding, "utf-8", "not plain UTF-8"))
    try:
        written = json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair can only be written as an escape
        written = json.dumps(content).encode()
    with atomic_write(mended_file) as file:
        file.write(written)
    return Repair(str(json_file), str(mended_file), changes)


def mend(content: dict[str, Any]) -> list[Change]:
    """Mend the content of an annotation file in place and return the changes."""
    repair = _Repair(content)
    repair.values()
    repair.references()
    repair.duplicate_categories()
    repair.boxes_and_areas()
    return repair.changes


@dataclass
class _Repair:
    content: dict[str, Any]
    changes: list[Change] = field(default_factory=list)

    def entries(self, section: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield the id, or else the position, and the entry of each object of a section."""
        entries = self.content.get(section)
        for position, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, dict):
                name = entry.get("id")
                yield position if name is None else name, entry

    def set(self, section: str, name: Any, entry: dict[str, Any], change: Sequence[Any]) -> None:
        """Set a field, given as field, new value and reason. None removes the field."""
        key, new, reason = change
        self.changes.append(Change(section, name, key, entry.get(key), new, reason))
        if new is None:
            entry.pop(key, None)
        else:
            entry[key] = new

    def values(self) -> None:
        """Mend types: numbers and flags as text, null, and polygons that are not in a list."""
        for section, keys in _NUMBERS.items():
            for name, entry in self.entries(section):
                for key in keys:
                    new = as_numbers(entry.get(key))
                    if new is not None:
                        self.set(section, name, entry, (key, new, "numbers as text"))
                for key in _OPTIONAL[section]:
                    if key in entry and entry[key] is None:
                        self.set(section, name, entry, (key, None, "null"))
        for name, entry in self.entries("annotations"):
            self._flags_and_lists(name, entry)

    def _flags_and_lists(self, name: Any, entry: dict[str, Any]) -> None:
        for key in _FLAGS:
            new = as_flag(entry[key]) if key in entry else None
            if new is not None:
                self.set("annotations", name, entry, (key, new, "flags other than 0 and 1"))
        mask = entry.get("segmentation")
        if isinstance(mask, list) and len(mask) > 5 and all(map(is_number, mask)):
            change = ("segmentation", [mask], "a polygon that is not in a list")
            self.set("annotations", name, entry, change)

    def references(self) -> None:
        """Mend ids that are text where the list has numbers, or the reverse."""
        reason = "ids in another form"
        known: dict[str, set[Any]] = {}
        for section, key in (("images", "image_id"), ("categories", "category_id")):
            known[section] = {_hashable(e.get("id")) for _, e in self.entries(section)} - {None}
            for name, entry in self.entries("annotations"):
                value = entry.get(key)
                if (other := _in_known_form(value, known[section])) is not value:
                    self.set("annotations", name, entry, (key, other, reason))
        for name, image in self.entries("images"):
            for key in FEDERATED:
                ids = image.get(key)
                if isinstance(ids, list):
                    new = [_in_known_form(value, known["categories"]) for value in ids]
                    if new != ids:
                        self.set("images", name, image, (key, new, reason))

    def duplicate_categories(self) -> None:
        """Remove unused categories that have the name of another one."""
        used = {_hashable(entry.get("category_id")) for _, entry in self.entries("annotations")}
        for _, image in self.entries("images"):
            for key in FEDERATED:
                ids = image.get(key)
                used.update(map(_hashable, ids if isinstance(ids, list) else []))
        named: dict[str, list[dict[str, Any]]] = {}
        for _, category in self.entries("categories"):
            if category.get("name") is not None:
                named.setdefault(str(category["name"]), []).append(category)
        for same in named.values():
            unused = [c for c in same if _hashable(c.get("id")) not in used]
            for category in unused[: len(same) - 1]:
                self.content["categories"] = [
                    c for c in self.content["categories"] if c is not category
                ]
                old, name = category.get("name"), category.get("id")
                reason = "unused categories with the name of another one"
                self.changes.append(Change("categories", name, "name", old, None, reason))

    def boxes_and_areas(self) -> None:
        """Take boxes and areas from the masks where these are missing or contradict them."""
        sizes = {
            _hashable(image.get("id")): (image.get("width"), image.get("height"))
            for _, image in self.entries("images")
        }

        def size_of(entry: Mapping[str, Any]) -> Sequence[Any]:
            return sizes.get(_hashable(entry.get("image_id")), ())

        names, entries = [], []
        for name, entry in self.entries("annotations"):
            names.append(name)
            entries.append(entry)
        for row, box, reason in BoxColumns.of(entries, size_of).new_boxes():
            self.set("annotations", names[row], entries[row], ("bbox", box, reason))
        for row, area, reason in BoxColumns.of(entries, size_of).new_areas():
            self.set("annotations", names[row], entries[row], ("area", area, reason))


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None


def _in_known_form(value: Any, known: Container[Any]) -> Any:
    """Return text as an integer, or an integer as text, if only the other form is known."""
    other = None if _hashable(value) in known else other_form(value)
    return other if other in known else value


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
