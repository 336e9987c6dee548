"""Configs of somebody else: read without running anything, and checked name by name.

A YAML config need not be the user's own: ``config.yaml`` comes with a downloaded checkpoint. Only
names of :mod:`d2_seesaw.engine.untrusted.names` are resolved, in the parts that are needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2_seesaw.engine.untrusted.names import argument_fault, find, is_allowed
from d2_seesaw.engine.untrusted.yaml_files import MAX_DEPTH, Unresolved
from d2_seesaw.engine.values import ConfigError, in_one_line, shorten

MAX_RESOLVED = 10_000
"""Limit of the values of a part, wherever references repeat them."""


def resolve_names(cfg: DictConfig, parts: Sequence[str], origin: str) -> None:
    """Replace each name in the needed parts of a config by the object it names, in place.

    Args:
        cfg: as :func:`~d2_seesaw.engine.untrusted.yaml_files.read_yaml_config` returns it.
        parts: dotted keys, such as ``"model"`` and ``"dataloader.test.mapper"``. Those that the
            config lacks are left out.
        origin: path of the config, for messages.

    Raises:
        ConfigError: a name that is not allowed, or arguments that would read files or run code; the
            message names the key.
    """
    try:
        for part in parts:
            node = OmegaConf.select(cfg, part)
            left = MAX_RESOLVED
            for container, path in _containers(node, part, 0):
                if (left := left - 1 - len(container)) < 0:
                    raise ConfigError(f"{part} has more than {MAX_RESOLVED} values")
                _resolve(container, path, part)
    except ConfigError as error:
        raise ConfigError(f"config {origin!r}: {error}") from error
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"config {origin!r} cannot be read: {in_one_line(error)}") from error


def _containers(node: Any, path: str, depth: int) -> Iterator[tuple[Any, str]]:
    """Yield each section and list with its path; references to other keys are followed."""
    if not isinstance(node, DictConfig | ListConfig):
        return
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path} is nested more than {MAX_DEPTH} levels deep")
    yield node, path
    for key in _keys(node):
        yield from _containers(_value(node, key), f"{path}.{key}", depth + 1)


def _keys(node: DictConfig | ListConfig) -> list[Any]:
    return list(node) if isinstance(node, DictConfig) else list(range(len(node)))


def _value(node: Any, key: Any) -> Any:
    return None if OmegaConf.is_missing(node, key) else node[key]


def _resolve(node: Any, path: str, part: str) -> None:
    for key in _keys(node):
        value = _value(node, key)
        where = f"{path}.{key}"
        if key == "_target_" and isinstance(value, str):  # resolved for another part
            value = Unresolved(value)
        if isinstance(value, Unresolved):
            value = _found(value, where, part)
            node[key] = _without_structure(value)
        if key != "_target_":
            continue
        if not callable(value):
            raise ConfigError(
                f"{where} must be the name of a class or function, got {shorten(repr(value), 80)}"
            )
        if not is_allowed(value, part):  # resolved for another part
            raise ConfigError(_refusal(where, shorten(str(value), 80), part))
        if fault := argument_fault(value, node):
            raise ConfigError(f"{path}: {fault}. {_HOW}")


def _found(value: Unresolved, where: str, part: str) -> Any:
    found = find(value.text) if value.is_name else None
    if found is None or not is_allowed(found, part):
        raise ConfigError(_refusal(where, shorten(value.text, 80), part))
    return found


def _without_structure(value: Any) -> Any:
    """Return the name of a dataclass, which OmegaConf would turn into a section, or the value."""
    is_structure = isinstance(value, type) and is_dataclass(value)
    return f"{value.__module__}.{value.__qualname__}" if is_structure else value


_HOW = "If you trust the author of the config: --trust on the command line, trust=True in Python"


def _refusal(where: str, name: str, part: str) -> str:
    expected = "a module of d2_seesaw, Detectron2, torchvision or torch.nn, or "
    return (
        f"{where} names {name}, which is not built without being trusted: expected "
        f"{expected if part == 'model' else ''}a callable that a shipped config has there. {_HOW}"
    )
