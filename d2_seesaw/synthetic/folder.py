"""Folder of a generated dataset: completeness, overwriting and file names.

While data are being written, the folder contains ``generator.partial.json``; the last step renames
it to ``generator.json``. Both contain the parameters. A function of the generator, such as
:func:`written_files`, derives the names of all written files from them. So data of one generator
can be replaced by those of another.
"""

import contextlib
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from d2_seesaw.utils.files import write_text

COMPLETE = "generator.json"
PARTIAL = "generator.partial.json"
SPLITS = ("train", "val")

# Modules whose function ``written_files`` lists the files, by the kind of the data.
_GENERATORS = {
    "instances": __name__,
    "semantic": "d2_seesaw.synthetic.street",
    "classification": "d2_seesaw.synthetic.pictures",
    "cutouts": "d2_seesaw.synthetic.cutouts.dataset",
}

_ADVICE = "`d2-seesaw generate` has not written it: choose another root"

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


def _kind_of(parameters: dict[str, Any]) -> str:
    return str(parameters.get("generator") or parameters.get("kind") or "instances")


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        parameters = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. {_ADVICE}") from error
    if not isinstance(parameters, dict):
        raise ValueError(f"{path} is not a JSON object of parameters. {_ADVICE}")
    return parameters


def _files_of(path: Path, old: dict[str, Any], kind: str, files: FileNames) -> set[str]:
    """Return the files of the data that ``old``, the content of ``path``, describes.

    Args:
        path: marker, for errors.
        old: its parameters.
        kind: kind of the data that ``files`` lists.
        files: function of that kind.
    """
    of_old = _kind_of(old)
    if of_old != kind and of_old not in _GENERATORS:
        raise ValueError(
            f"{path} describes data of kind {of_old!r}, expected one of {', '.join(_GENERATORS)}. "
            f"{_ADVICE}"
        )
    if of_old != kind:
        # Imported here, because generators import this module.
        files = importlib.import_module(_GENERATORS[of_old]).written_files
    try:
        return set(files(old))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} lacks parameters of data of kind {of_old!r}, or has others ({error}). "
            f"{_ADVICE}"
        ) from error


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


def _earlier_files(root: Path, parameters: dict[str, Any], files: FileNames) -> set[str]:
    """Return the files of all data that the markers in ``root`` describe."""
    kind, paths = _kind_of(parameters), (root / COMPLETE, root / PARTIAL)
    described = [(path, old) for path in paths if (old := _read(path)) is not None]
    return {name for path, old in described for name in _files_of(path, old, kind, files)}


def _check_overwrite(root: Path, parameters: dict[str, Any], *, overwrite: bool) -> None:
    finished, partial = _read(root / COMPLETE), _read(root / PARTIAL)
    if overwrite or not finished or partial or finished == parameters:
        return
    how = f"with other parameters: {_differences(finished, parameters)}"
    if _kind_of(finished) != _kind_of(parameters):
        how = f"of kind {_kind_of(finished)}, requested {_kind_of(parameters)}"
    raise ValueError(f"{root} contains a dataset {how}. Choose another root, or overwrite this one")


def _remove(root: Path, names: set[str]) -> None:
    """Remove files, and the folders that are then empty."""
    for name in names:
        (root / name).unlink(missing_ok=True)
    for folder in sorted({p for name in names for p in Path(name).parents[:-1]}, reverse=True):
        with contextlib.suppress(OSError):
            (root / folder).rmdir()


def start_writing(
    root: Path,
    parameters: dict[str, Any],
    files: FileNames = written_files,
    *,
    overwrite: bool,
) -> None:
    """Prepare ``root`` for a new dataset, and remove an earlier dataset of any generator.

    Raises:
        ValueError: ``root`` contains a complete dataset of other parameters and ``overwrite`` is
            false, other files with the generator's names, or a ``generator.json`` that no generator
            has written.
    """
    ours = _earlier_files(root, parameters, files)
    _check_overwrite(root, parameters, overwrite=overwrite)
    wanted = set(files(parameters))
    foreign = sorted(name for name in wanted - ours if (root / name).exists())
    if foreign:
        raise ValueError(
            f"the generator would overwrite files in {root} that it did not write, such as "
            f"{foreign[0]} ({len(foreign)} in total): choose another root"
        )
    _remove(root, ours - wanted)
    for folder in {(root / name).parent for name in wanted}:
        folder.mkdir(parents=True, exist_ok=True)
    write_text(root / PARTIAL, json.dumps(parameters, indent=1))
    (root / COMPLETE).unlink(missing_ok=True)


def finish_writing(root: Path) -> None:
    """Mark the dataset as complete by an atomic rename."""
    os.replace(root / PARTIAL, root / COMPLETE)
