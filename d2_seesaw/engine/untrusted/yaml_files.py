"""Reader of YAML configs that runs nothing in them.

Detectron2 reads configs with ``yaml.unsafe_load``, which calls whatever a tag such as
``!!python/object/apply:os.system`` names. Here, tags of Python become an :class:`Unresolved`
object, which :mod:`d2_seesaw.engine.untrusted.names` then resolves or refuses.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from d2_seesaw.engine.values import ConfigError, in_one_line, shorten

MAX_BYTES = 4 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 50
MAX_DIGITS = 40

_REFERENCE = re.compile(r"\$\{[\w.\[\]-]+\}")  # without a resolver, such as ${oc.env:HOME}


class Unresolved:
    """Name or object of Python in a YAML file that has not been looked up.

    Attributes:
        text: the name, or the tag of an object.
        is_name: whether ``text`` is a name, which may be resolved.
    """

    def __init__(self, text: str, *, is_name: bool = True) -> None:
        self.text, self.is_name = text, is_name

    def __repr__(self) -> str:
        return f"<{self.text}, not resolved>"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with tuples, and with Python's other tags as ``Unresolved``.

    Levels and values are counted while the text is read. Otherwise, a text of a few thousand open
    brackets would take seconds, because the time to split it grows with the square of the levels.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count_of_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._count_of_nodes += 1
        if self._count_of_nodes > MAX_VALUES:
            raise _too_many()
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        super().fetch_flow_collection_start(TokenClass)
        self._check_depth()

    def add_indent(self, column: int) -> bool:
        is_deeper = super().add_indent(column)
        self._check_depth()
        return is_deeper

    def _check_depth(self) -> None:
        if self.flow_level + len(self.indents) - 1 > MAX_DEPTH:  # the outermost is level 0
            raise _too_deep()


def _whole_number(loader: yaml.SafeLoader, node: Any) -> Any:
    """Return a whole number, but text with colons as text, which YAML 1.1 reads in base 60."""
    text = loader.construct_scalar(node)
    if ":" in text:
        return text
    if len(text) > MAX_DIGITS:
        problem = f"a whole number of {len(text)} digits, expected at most {MAX_DIGITS}"
        raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
    return loader.construct_yaml_int(node)


def _number(loader: yaml.SafeLoader, node: Any) -> Any:
    """Return a number, but text with colons as text, which YAML 1.1 reads in base 60."""
    text = loader.construct_scalar(node)
    return text if ":" in text else loader.construct_yaml_float(node)


def _tuple(loader: yaml.SafeLoader, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _name(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> Unresolved:
    return Unresolved(name)


def _object(loader: yaml.SafeLoader, kind: str, node: yaml.Node) -> Unresolved:
    return Unresolved(f"!!python/{kind}", is_name=False)


def _represent(dumper: yaml.Dumper, value: Unresolved) -> yaml.Node:
    # As text: Detectron2 reads what it has saved with yaml.unsafe_load.
    return dumper.represent_str(value.text)


yaml.add_representer(Unresolved, _represent)

_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor(f"{_PYTHON}tuple", _tuple)
_Loader.add_multi_constructor(f"{_PYTHON}name:", _name)
_Loader.add_multi_constructor(_PYTHON, _object)


def read_yaml_config(path: str | os.PathLike[str], *, is_own: bool = False) -> DictConfig:
    """Read a YAML config without running anything in it.

    Args:
        path: the file.
        is_own: the file was written by this run, so it may refer to the environment.

    Returns:
        The config. The value of each ``_target_`` and each Python tag is an :class:`Unresolved`.

    Raises:
        ConfigError: the file is damaged, empty, too large or too deep, or has a reference with a
            resolver, such as ``${oc.env:HOME}``, which would read the environment.
        OSError: the file cannot be read.
    """
    if (size := os.path.getsize(path)) > MAX_BYTES:
        raise ConfigError(f"config {str(path)!r} has {size} bytes, the limit is {MAX_BYTES}")
    try:
        return _config(Path(path).read_text(encoding="utf-8-sig"), is_own=is_own)
    except (OSError, MemoryError):
        raise
    except ConfigError as error:
        raise ConfigError(f"config {str(path)!r} {error}") from error
    except RecursionError as error:
        raise ConfigError(f"config {str(path)!r} is nested too deeply") from error
    except Exception as error:  # PyYAML and OmegaConf have errors of many kinds
        raise ConfigError(f"config {str(path)!r} cannot be read: {in_one_line(error)}") from error


def _config(text: str, *, is_own: bool) -> DictConfig:
    content = _content(text)
    if not content and not isinstance(content, int | str):
        raise ConfigError("is empty")
    if not isinstance(content, dict):
        raise ConfigError(f"must have keys and values, got a {type(content).__name__}")
    for key, value in () if is_own else _leaves(content, ""):
        _check_references(key, value)
    return OmegaConf.create(content, flags={"allow_objects": True})


def _content(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}, 0) > MAX_VALUES:
            raise _too_many()
        content = loader.construct_document(node)
    finally:
        loader.dispose()
    _mark_targets(content, set())
    return content


def _too_deep() -> ConfigError:
    return ConfigError(f"is nested more than {MAX_DEPTH} levels deep")


def _too_many() -> ConfigError:
    return ConfigError(f"has more than {MAX_VALUES} values, repeated ones included")


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Count the values below a node, those of anchors wherever they are repeated."""
    if depth > MAX_DEPTH:
        raise _too_deep()
    if id(node) in known:
        if not known[id(node)]:
            raise ConfigError("has an anchor that contains itself")
        return known[id(node)]
    known[id(node)] = 0
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_count(child, known, depth + 1) for child in children)
    return known[id(node)]


def _mark_targets(value: Any, done: set[int]) -> None:
    """Turn each ``_target_`` into an ``Unresolved`` object."""
    if id(value) in done or not isinstance(value, dict | list | tuple):
        return
    done.add(id(value))
    if isinstance(value, dict) and isinstance(value.get("_target_"), str):
        value["_target_"] = Unresolved(value["_target_"])
    for child in value.values() if isinstance(value, dict) else value:
        _mark_targets(child, done)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple | set):
        for index, child in enumerate(value):
            yield from _leaves(child, f"{path}[{index}]")
    else:
        yield path, value


def _check_references(key: str, value: Any) -> None:
    """Refuse resolvers, and more than one reference in a text, which could grow without limit."""
    if not isinstance(value, str) or "${" not in value:
        return
    if value.count("${") > 1 or not _REFERENCE.search(value):
        raise ConfigError(
            f"has {key}={shorten(value, 80)!r}: expected at most one reference to another key, "
            "such as ${model.input_format}, without a resolver"
        )
