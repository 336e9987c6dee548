"""The folder of a generated data set: is it complete, may it be written, which files are ours.

While data is being written the folder holds ``generator.partial.json``; the last step renames it to
``generator.json``. Both hold the parameters, from which the names of all written files follow; how,
each generator says by a function like :func:`written_files`.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

COMPLETE = "generator.json"
PARTIAL = "generator.partial.json"
SPLITS = ("train", "val")

FileNames = Callable[[dict[str, Any]], Iterable[str]]
"""All files below the root that a generator writes for its parameters, its marks aside."""


def image_file(split: str, image_id: int) -> str:
    """Path of an image below the root."""
    return f"{split}/{image_id:06d}.jpg"


def json_file(split: str) -> str:
    """Path of the annotations of a split below the root."""
    return f"lvis_{split}.json"


def image_ids(split: str, parameters: dict[str, Any]) -> range:
    """Ids of a split's images; those of validation follow those of training."""
    num_train, num_val = parameters["num_train_images"], parameters["num_val_images"]
    first, number = (1, num_train) if split == "train" else (1 + num_train, num_val)
    return range(first, first + number)


def written_files(parameters: dict[str, Any]) -> Iterator[str]:
    """:data:`FileNames` of the generator of instances."""
    for split in SPLITS:
        yield json_file(split)
        if parameters["write_images"]:
            yield from (image_file(split, i) for i in image_ids(split, parameters))


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return "; ".join(f"{k} is {old.get(k)}, asked for {new.get(k)}" for k in keys)


def holds_complete(
    root: Path, parameters: dict[str, Any], files: FileNames = written_files
) -> bool:
    """Whether ``root`` holds the finished data set of exactly these parameters."""
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
    """Make ``root`` ready for a new data set, removing an earlier one of the generator only.

    Raises:
        ValueError: ``root`` holds a finished data set of other parameters and ``overwrite`` is off,
            or it holds files of our names that the generator did not write.
    """
    finished, partial = _read(root / COMPLETE), _read(root / PARTIAL)
    if finished and not partial and finished != parameters and not overwrite:
        raise ValueError(
            f"{root} holds a data set of other parameters: {_differences(finished, parameters)}. "
            "Choose another root, or overwrite this one"
        )
    ours = {name for old in (finished, partial) if old for name in files(old)}
    wanted = set(files(parameters))
    foreign = sorted(name for name in wanted - ours if (root / name).exists())
    if foreign:
        raise ValueError(
            f"{root} already holds {len(foreign)} files that would be overwritten but that the "
            f"generator did not write, such as {foreign[0]}: choose another root"
        )
    for folder in {(root / name).parent for name in wanted}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in ours - wanted:
        (root / name).unlink(missing_ok=True)
    (root / PARTIAL).write_text(json.dumps(parameters, indent=1))
    (root / COMPLETE).unlink(missing_ok=True)


def finish_writing(root: Path) -> None:
    """Declare the data set complete. The rename is atomic: there is no half-written mark."""
    for split in SPLITS:
        with contextlib.suppress(OSError):
            (root / split).rmdir()  # left empty by an earlier data set with images
    os.replace(root / PARTIAL, root / COMPLETE)
