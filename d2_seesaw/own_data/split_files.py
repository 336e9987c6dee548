"""Files of the two parts of a split, and what an earlier split of a folder was.

The names follow from the content, so a new split never replaces the files that an earlier config,
or the datasets saved with an earlier training, refer to.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2_seesaw.data.annotations.coco import read_content
from d2_seesaw.data.annotations.image_groups import name_of
from d2_seesaw.data.annotations.schema import as_id
from d2_seesaw.own_data.split import Split
from d2_seesaw.utils.files import write_text

_SOURCE = "d2_seesaw_split"  # section of the written files that names the file they come from
_PART = re.compile(r"split_(train|val)_[0-9a-f]{12}\.json")


@dataclass(frozen=True)
class Source:
    """The file that a split comes from.

    Attributes:
        file: its absolute path.
        sha256: hash of its content.
        group_by: pattern of ``--group-by``, if there was one.
    """

    file: str
    sha256: str
    group_by: str | None = None

    @classmethod
    def of(cls, json_file: str | Path, group_by: str | None = None) -> "Source":
        """Return the source that an annotation file would be."""
        content = Path(json_file).read_bytes()
        return cls(os.path.abspath(json_file), hashlib.sha256(content).hexdigest(), group_by)


def source_of(part: str | Path) -> Source | None:
    """Return the file that a part of a split comes from; None for any other, or no, file."""
    try:
        recorded = read_content(Path(part).read_bytes(), str(part)).get(_SOURCE)
        return Source(**recorded) if isinstance(recorded, dict) else None
    except (OSError, ValueError, TypeError):
        return None


def write_split(
    json_file: Path, split: Split, folder: Path, group_by: str | None = None
) -> tuple[Path, Path]:
    """Write the two parts of a file as ``split_train_HASH.json`` and ``split_val_HASH.json``.

    Everything but images and annotations is in both, and the file that they come from. The hash is
    that of the source and the split, and files that exist are not written again.

    Returns:
        The paths of the two files.

    Raises:
        ValueError: one of the files exists and has another content.
    """
    source = Source.of(json_file, group_by)
    recorded = json.dumps([asdict(source), sorted(map(repr, split.val))])
    name = hashlib.sha256(recorded.encode()).hexdigest()[:12]
    paths = folder / f"split_train_{name}.json", folder / f"split_val_{name}.json"
    content = read_content(json_file.read_bytes(), str(json_file))
    for path, in_val in zip(paths, (False, True), strict=True):
        part = content | {_SOURCE: asdict(source)}
        part |= {
            section: list(_of_split(content[section], key, split, in_val))
            for section, key in (("images", "id"), ("annotations", "image_id"))
        }
        text = json.dumps(part)
        if not os.path.lexists(path):
            write_text(path, text)
        elif not path.is_file() or path.read_bytes() != text.encode():
            raise ValueError(
                f"{path} exists and is not what train --data would write: move it, or choose "
                "another --output"
            )
    return paths


def _of_split(
    entries: Iterable[dict[str, Any]], key: str, split: Split, in_val: bool
) -> Iterable[dict[str, Any]]:
    return (entry for entry in entries if (as_id(entry[key]) in split.val) == in_val)


@contextlib.contextmanager
def parts_undone_at_errors(config: Path) -> Iterator[None]:
    """Remove the parts of a split that the block adds if it raises before the config names them.

    Folders that the block made and that are empty are removed too.

    Args:
        config: config that the block writes last, in the folder of the parts.
    """
    folder = config.parent
    made = [path for path in config.parents if not path.exists()]
    before = _parts_in(folder)
    try:
        yield
    except BaseException:
        text = config.read_text(encoding="utf-8") if config.is_file() else ""
        for path in _parts_in(folder) - before:
            if path.name not in text:
                path.unlink(missing_ok=True)
        for path in made:
            with contextlib.suppress(OSError):  # it has files
                path.rmdir()
        raise


def _parts_in(folder: Path) -> set[Path]:
    return {path for path in folder.glob("split_*.json") if _PART.fullmatch(path.name)}


@dataclass(frozen=True)
class EarlierSplit:
    """The split that an earlier config of a folder trains and evaluates on.

    Attributes:
        source: the file that it comes from.
        in_val: whether each image was evaluated, by its name.
    """

    source: Source
    in_val: Mapping[str, bool]

    @classmethod
    def of(cls, config: Path) -> "EarlierSplit | None":
        """Read the split that a config names; None if it names none that can be read.

        The config is not run, which its user may have edited.
        """
        try:
            text = config.read_text(encoding="utf-8")
            found = {match[1]: config.with_name(match[0]) for match in _PART.finditer(text)}
            parts = {name: read_content(p.read_bytes(), str(p)) for name, p in found.items()}
            return cls(
                source=Source(**parts["train"][_SOURCE]),
                in_val={
                    name_of(image): name == "val"
                    for name in ("train", "val")
                    for image in parts[name]["images"]
                },
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def moved(self, images: Iterable[Mapping[str, Any]], split: Split) -> tuple[int, int, int]:
        """Return how many images stay in their part, go to training, and go to evaluation."""
        known = [
            (self.in_val[name], image["id"] in split.val)
            for image in images
            if (name := name_of(image)) in self.in_val
        ]
        stay = sum(before == now for before, now in known)
        to_train, to_val = known.count((True, False)), known.count((False, True))
        return stay, to_train, to_val
