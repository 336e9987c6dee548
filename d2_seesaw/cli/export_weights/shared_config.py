"""Configs for other people: without places, names and accounts of the machine that trained."""

import copy
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig

from d2_seesaw.engine.train_options import train_options

# Weights that everybody can download by these names.
_PUBLIC = ("detectron2://", "torchvision://")
_TRACKERS = ("wandb", "mlflow")
# `/a/b`, `~/a`, `../a`, `C:\a` and `\\host\a` anywhere in a text, and `scheme://host/a`. Words
# before a slash make a relative path, such as a config's name.
_PLACE = re.compile(
    r"(?:[a-zA-Z][\w+.-]*://|(?<![\w.$}])(?:~[\w.-]*[/\\]|\.\.[/\\]|[a-zA-Z]:[/\\]|\\\\|/(?=[^\s/])))"
    r"[^\s,;'\"]*"
)
_NAMES_A_PLACE = re.compile(r"(^|_)(dir|directory|file|filename|folder|path|root|uri|url)s?$")


def without_private_values(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """Return a copy of a config for other people, and the keys that differ from it.

    - ``train.output_dir`` follows from the config's name again, and ``train.init_checkpoint`` is
      empty unless it is a public name.
    - ``train.wandb`` and ``train.mlflow`` have their default values.
    - Absolute paths and URLs anywhere, and values of keys such as ``json_file`` or ``image_root``,
      are shortened to their last part.

    References such as ``${train.output_dir}/inference`` are kept.

    Args:
        cfg: the config of a training; not changed.
    """
    shared = copy.deepcopy(cfg)
    if "train" in shared:
        _reset_train(shared.train)
    for parent, key, value in list(_texts(shared)):
        if (kept := _without_places(str(key), value)) != value:
            parent[key] = kept
    return shared, sorted(_differing(cfg, shared, ""))


def _reset_train(train: DictConfig) -> None:
    train.output_dir = None
    if not str(train.get("init_checkpoint") or "").startswith(_PUBLIC):
        train.init_checkpoint = ""
    for tracker in _TRACKERS:
        if tracker in train:
            train[tracker] = train_options()[tracker]


def _children(node: Any) -> Iterator[Any]:
    if not isinstance(node, DictConfig | ListConfig):
        return
    if not (node._is_none() or node._is_missing() or node._is_interpolation()):
        yield from node if isinstance(node, DictConfig) else range(len(node))


def _texts(node: Any) -> Iterator[tuple[Any, Any, str]]:
    """Yield parent, key and value of each text below ``node``."""
    for key in _children(node):
        child = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            yield from _texts(child)
        elif isinstance(child._value(), str) and key != "_target_":
            yield node, key, child._value()


def _without_places(key: str, value: str) -> str:
    if value.startswith(_PUBLIC):
        return value
    if "${" not in value and (_NAMES_A_PLACE.search(key) or _PLACE.match(value)):
        return _last_part(value)  # it may contain spaces
    return _PLACE.sub(lambda match: _last_part(match[0]), value)


def _last_part(place: str) -> str:
    _, _, behind_scheme = place.rpartition("://")
    parts = [part for part in re.split(r"[/\\]", behind_scheme) if part]
    # A single part of a URL is its host.
    if not parts or ("://" in place and len(parts) == 1 and not place.startswith("file:")):
        return ""
    return parts[-1].partition("?")[0]


def _differing(one: Any, other: Any, path: str) -> Iterator[str]:
    if not isinstance(one, DictConfig | ListConfig):
        return
    for key in _children(one):
        name = f"{path}.{key}" if path else str(key)
        before: Any = one._get_node(key)
        after: Any = other._get_node(key)
        if isinstance(before, DictConfig | ListConfig):
            yield from _differing(before, after, name)
        elif before._value() != after._value():
            yield name


def config_text(cfg: DictConfig) -> str:
    """Return a config as the YAML that Detectron2's ``LazyConfig.save`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        LazyConfig.save(cfg, str(file))
        return file.read_text()
