"""Datasets of a run, saved as plain data beside its ``config.yaml``.

A config names datasets, and only a Python config registers them. The file beside the saved config
has what registers them again. Reading it runs nothing.
"""

import json
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from d2_seesaw.data.catalog import given_to_register, register_longtail_instances
from d2_seesaw.data.quickstart import INSTANCES
from d2_seesaw.utils.files import write_text

_FILES = ("json_file", "image_root")
_METADATA = ("evaluator_type", "class_image_count")


def datasets_file(config_file: str | os.PathLike[str]) -> str:
    """Return the path of the datasets of a saved config: ``config.datasets.json`` for config.yaml.

    Args:
        config_file: path or URL of the config.
    """
    return f"{os.path.splitext(os.fspath(config_file))[0]}.datasets.json"


def save_datasets(config: Any, config_file: str | os.PathLike[str]) -> None:
    """Write what was given to ``register_longtail_instances`` for all datasets that a config names.

    Paths become absolute. Nothing is written if the config names none.

    Args:
        config: nested dicts and lists of a config.
        config_file: file of the config, beside which the datasets are written.

    Raises:
        WriteError: the file cannot be written.
    """
    saved: dict[str, dict[str, Any]] = {}
    pending = sorted(_texts(config).difference(INSTANCES))
    while pending:
        name = pending.pop()
        given = given_to_register(name)
        if given is None or name in saved:
            continue
        counts_from = given["counts_from"]
        pending += [counts_from] if counts_from and counts_from not in INSTANCES else []
        if counts_from and counts_from not in DatasetCatalog.list():
            counts_from = os.path.abspath(counts_from)
        saved[name] = {key: os.path.abspath(given[key]) for key in _FILES}
        saved[name] |= {"counts_from": counts_from}
        saved[name] |= {key: given[key] for key in _METADATA if key in given}
    path = datasets_file(config_file)
    if saved:
        write_text(path, json.dumps(dict(sorted(saved.items())), indent=1) + "\n")
    elif os.path.isfile(path):  # of an earlier config
        os.unlink(path)


def _texts(node: Any) -> set[str]:
    """Return all strings in nested dicts and lists."""
    if isinstance(node, dict | list | tuple):
        parts = node.values() if isinstance(node, dict) else node
        return set().union(*map(_texts, parts))
    return {node} if isinstance(node, str) else set()


def register_saved_datasets(config_file: str | os.PathLike[str]) -> list[str]:
    """Register the datasets that were saved with a config, and return the names of the new ones.

    Names that are registered already stay as they are. A Python config registers its datasets
    itself, so that nothing is read for it.

    Raises:
        ValueError: the file is damaged.
    """
    path = datasets_file(config_file)
    if Path(config_file).suffix not in (".yaml", ".yml") or not os.path.isfile(path):
        return []
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        new = {name: _checked(entry) for name, entry in saved.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of saved datasets: {error!r}") from error
    new = {name: entry for name, entry in new.items() if name not in DatasetCatalog.list()}
    for name, entry in new.items():
        register_longtail_instances(name, **entry)
    return list(new)


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that register a dataset, of the expected types."""
    texts = [entry[key] for key in _FILES]
    texts += [entry[key] for key in ("counts_from", "evaluator_type") if entry.get(key) is not None]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"paths and names must be strings, got {texts}")
    metadata = {key: entry[key] for key in _METADATA if key in entry}
    if "class_image_count" in metadata:
        counts = metadata["class_image_count"]
        metadata["class_image_count"] = [
            {"id": int(c["id"]), "image_count": int(c["image_count"])} for c in counts
        ]
    files = {key: entry[key] for key in (*_FILES, "counts_from")}
    return {"metadata": metadata, **files}
