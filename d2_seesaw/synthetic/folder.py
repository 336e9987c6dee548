"""Folder of a generated dataset: completeness, overwriting and file names.

While data are being written, the folder contains ``generator.partial.json``; the last step renames
it to ``generator.json``. Both contain the parameters. A function of the generator, such as
:func:`written_files`, derives the names of all written files from them.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from d2_seesaw.utils.files import write_text

COMPLETE = "generator.json"
PARTIAL = "generator.partial.json"
SPLITS = ("train", "val")

FileNames = Callable[[dict[str, Any]], Iterable[str]]
"""Returns the paths that a generator writes for its parameters, except the markers."""


def image_file(split: str, image_id: int) -> str:
    """Return the path of an image relative to the root."""
    return f"{split}/{image_id:06d}.jpg"


def json_file(split: str) -> str:
    """Return the path of a split's annotations relative to the root."""
    return f"lvis_{split}.json"


def image_ids(split: str, parameters: dict[str, Any]) -> range:
    """Return the ids of a split's images; validation ids follow training ids."""
    num_train, num_val = parameters["num_train_images"], parameters["num_val_images"]
    first, number = (1, num_train) if split == "train" else (1 + num_train, num_val)
    return range(first, first + number)


def written_files(parameters: dict[str, Any]) -> Iterator[str]:
    """Yield the paths that the instance generator writes."""
    for split in SPLITS:
        yield json_file(split)
        if parameters["write_images"]:
            yield from (image_file(split, i) for i in image_ids(split, parameters))


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return "; ".join(f"{k} is {old.get(k)}, requested {new.get(k)}" for k in keys)


def holds_complete(
    root: Path, parameters: dict[str, Any], files: FileNames = written_files
) -> bool:
    """Return whether ``root`` contains the complete dataset of exactly these parameters."""
    if (root / PARTIAL).exists() or _read(root / COMPLETE) != parameters:
        return False
    return all((root / name).exists() for name in files(parameters))


def start_writing(
    root: Path,
    parameters: dict[str, Any],
    files: FileNames = written_files,
    *,
    overwrite: bool,
) -> None:
    """Prepare ``root`` for a new dataset, and remove an earlier dataset of the generator.

    Raises:
        ValueError: ``root`` contains a complete dataset of other parameters and ``overwrite`` is
            false, or other files with the generator's names.
    """
    finished, partial = _read(root / COMPLETE), _read(root / PARTIAL)
    if finished and not partial and finished != parameters and not overwrite:
        raise ValueError(
            f"{root} contains a dataset with other parameters: "
            f"{_differences(finished, parameters)}. Choose another root, or overwrite this one"
        )
    ours = {name for old in (finished, partial) if old for name in files(old)}
    wanted = set(files(parameters))
    foreign = sorted(name for name in wanted - ours if (root / name).exists())
    if foreign:
        raise ValueError(
            f"the generator would overwrite files in {root} that it did not write, such as "
            f"{foreign[0]} ({len(foreign)} in total): choose another root"
        )
    for folder in {(root / name).parent for name in wanted}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in ours - wanted:
        (root / name).unlink(missing_ok=True)
    write_text(root / PARTIAL, json.dumps(parameters, indent=1))
    (root / COMPLETE).unlink(missing_ok=True)


def finish_writing(root: Path) -> None:
    """Mark the dataset as complete by an atomic rename."""
    for split in SPLITS:
        with contextlib.suppress(OSError):
            (root / split).rmdir()  # empty after an earlier dataset with images
    os.replace(root / PARTIAL, root / COMPLETE)
