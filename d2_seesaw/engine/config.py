"""Strict LazyConfig: an unknown key is an error instead of a silent default.

A key is known if the config already has it, or if its parent accepts it: the ``train`` options, or
the signature behind a ``LazyCall``. Everything is checked before anything is built.
"""

import builtins
import contextlib
import importlib.util
import inspect
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from d2_seesaw.engine.config_files import config_name, find_config
from d2_seesaw.engine.train_options import train_options
from d2_seesaw.engine.untrusted import resolve_names
from d2_seesaw.engine.untrusted.yaml_files import Unresolved, read_yaml_config
from d2_seesaw.engine.values import ConfigError, check_kind, check_values, in_one_line, shorten
from d2_seesaw.utils.text import did_you_mean

TOP_LEVEL = ("model", "dataloader", "optimizer", "lr_multiplier", "train", "tta")

# Names that need Detectron2's extension module. The deformable convolutions of d2_seesaw do not.
NEED_COMPILED = {
    "DeformBottleneckBlock",
    "DeformConv",
    "ModulatedDeformConv",
    "ROIAlignRotated",
    "RROIHeads",
    "RRPN",
    "RotatedCOCOEvaluator",
    "RotatedFastRCNNOutputLayers",
}


def target_of(node: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the callable that ``node["_target_"]`` is or names.

    Raises:
        ValueError: the name cannot be imported, or it is neither a name nor callable.
    """
    target = node["_target_"]
    if isinstance(target, str):
        try:
            return locate(target)
        except Exception as error:
            raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    if not callable(target):
        raise ValueError(f"_target_ must be a class or function or its name, got {target!r}")
    return target


def accepted_keywords(target: Callable[..., Any]) -> set[str] | None:
    """Return the names of the keywords that ``target`` accepts; None if it accepts any.

    A constructor with ``**options`` also accepts the keywords of its base class.
    """
    if not inspect.isclass(target):
        return _named(target)
    names: set[str] = set()
    for cls in target.__mro__:
        if "__init__" not in cls.__dict__:
            continue
        own = _named(cls.__init__)
        if own is not None:
            return (names | own) - {"self"}
        names |= _named(cls.__init__, skip_any=True) or set()
    return None


def _named(function: Callable[..., Any], *, skip_any: bool = False) -> set[str] | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    if not skip_any and any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def load_config(
    path: str,
    overrides: list[str] | None = None,
    *,
    trust: bool = False,
    parts: Sequence[str] = TOP_LEVEL,
) -> DictConfig:
    """Load a config file, apply ``key=value`` overrides and check every key.

    A Python config is a program, which is run. A YAML config may be somebody else's: nothing in it
    is run, and it may only name what :mod:`d2_seesaw.engine.untrusted.names` lists.

    If ``train.output_dir`` is not set, it becomes ``output/`` and the name of the config, see
    :func:`~d2_seesaw.engine.config_files.config_name`.

    Args:
        path: path of a ``.py`` or ``.yaml`` config, or name of a shipped one, see
            :func:`~d2_seesaw.engine.config_files.find_config`.
        overrides: overrides in Hydra's grammar: ``key=value`` changes or sets a known key,
            ``+key=value`` adds an unknown one. They may name anything.
        trust: resolve whatever a YAML config names, which can run any code; only for files whose
            author you trust.
        parts: dotted keys of a YAML config that are to be built. Names elsewhere are not resolved.

    Raises:
        FileNotFoundError: the file does not exist.
        ConfigError: a file that cannot be read or is empty, an unknown key, with the nearest known
            one, a value of the wrong kind or out of range, a part that needs Detectron2's extension
            module where it is missing, or a name in a YAML config that needs ``trust``.
    """
    path = str(find_config(path))
    if Path(path).suffix in (".yaml", ".yml") and not trust:
        cfg = read_yaml_config(path)
        resolve_names(cfg, parts, path)
    else:
        cfg = _read(path)
    check_config(cfg)
    if "train" in cfg:
        # Options that are newer than the config have their default values.
        cfg.train = OmegaConf.merge(train_options(), cfg.train)
    cfg = apply_overrides(cfg, overrides or [])
    if "train" in cfg and not cfg.train.output_dir:
        cfg.train.output_dir = f"output/{config_name(path)}"
    for _, node in _call_nodes(cfg, ""):
        target_of(node)  # an override may have changed it
    check_values(cfg)
    check_compiled_parts(cfg)
    return cfg


def load_part(name: str) -> DictConfig:
    """Load a shipped part from which configs are built, such as ``common/heads/classification``.

    Raises:
        FileNotFoundError: there is no such part.
    """
    return _read(str(find_config(name)))


def _read(path: str) -> Any:
    unpatched_import = builtins.__import__
    try:
        cfg: Any = LazyConfig.load(path)
    except (ConfigError, FileNotFoundError):
        raise
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path!r} cannot be read: {in_one_line(error)}") from error
    except Exception as error:
        if isinstance(error, ValueError | OSError) and Path(path).suffix == ".py":
            raise  # its own message, such as of a dataset that the config registers
        where = _line_in(path, error)
        raise ConfigError(
            f"config {path!r} cannot be read{where}: {type(error).__name__}: {in_one_line(error)}"
        ) from error
    finally:
        # Detectron2 leaves Python's import patched when a config raises.
        builtins.__import__ = unpatched_import
    if not cfg and Path(path).suffix != ".py":  # a .py file may only register datasets
        raise ConfigError(f"config {path!r} is empty")
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"config {path!r} must have keys and values, got a {type(cfg).__name__}")
    return cfg


def _line_in(path: str, error: BaseException) -> str:
    """Return ", line N" for the last line of the config that took part in an error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if os.path.abspath(f.filename) == os.path.abspath(path)]
    return f", line {lines[-1]}" if lines else ""


def check_config(cfg: DictConfig) -> None:
    """Refuse unknown keys anywhere in ``cfg``.

    Raises:
        ConfigError: an unknown key, with the nearest known one.
    """
    for key in cfg:
        if key not in TOP_LEVEL:
            hint = did_you_mean(key, TOP_LEVEL)
            raise ConfigError(
                f"unknown top-level key {key!r} in the config{hint}. Parts that only build others "
                "start with an underscore"
            )
        if not isinstance(cfg._get_node(key), DictConfig):
            raise ConfigError(f"{key} must be a section with keys, got {cfg[key]!r}")
    _check_train(cfg.get("train", {}), train_options(), "train")
    for path, node in _call_nodes(cfg, ""):
        known = accepted_keywords(target_of(node))
        for key in node:
            if known is not None and key != "_target_" and key not in known:
                raise ConfigError(
                    f"{path}.{key} is not an argument of {_name(node)}"
                    f"{_did_you_mean_below(path, key, known)}"
                )


def _check_train(given: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
    for key, value in given.items():
        if key not in known:
            hint = _did_you_mean_below(path, key, known)
            raise ConfigError(f"unknown key {path}.{key}{hint}")
        if isinstance(known[key], Mapping):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{path}.{key} must hold {sorted(known[key])}, got {value!r}")
            _check_train(value, known[key], f"{path}.{key}")


def check_compiled_parts(cfg: DictConfig) -> None:
    """Refuse parts that need Detectron2's extension module if it was not compiled.

    Raises:
        ConfigError: such a part, with the command that installs a compiled Detectron2.
    """
    if importlib.util.find_spec("detectron2._C") is not None:
        return
    for path, value in _leaves(cfg, ""):
        name = value.__name__ if isinstance(value, type) else str(value).rpartition(".")[2]
        if name in NEED_COMPILED:
            raise ConfigError(
                f"{path}={value}: {name} needs the compiled part of Detectron2, which is not "
                "installed; `python -m d2_seesaw.install_detectron2 git` compiles it"
            )


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield path and value of each leaf below ``node``, without following interpolations."""
    if isinstance(node, DictConfig | ListConfig):
        if node._is_none() or node._is_missing() or node._is_interpolation():
            return
        keys: Any = node if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            yield from _leaves(node._get_node(key), f"{path}.{key}" if path else str(key))
    elif not node._is_interpolation():
        yield path, node._value()


def _is_call(node: DictConfig) -> bool:
    """Return whether a node is a ``LazyCall`` of a part that is to be built."""
    return "_target_" in node and not isinstance(node["_target_"], Unresolved)


def _call_nodes(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield path and node of each ``LazyCall`` below ``node``, without following interpolations."""
    if isinstance(node, DictConfig):
        if node._is_none() or node._is_missing() or node._is_interpolation():
            return
        if _is_call(node):
            yield path, node
        for key in node:
            yield from _call_nodes(node._get_node(key), f"{path}.{key}" if path else str(key))
    elif isinstance(node, ListConfig) and not (node._is_none() or node._is_interpolation()):
        for index in range(len(node)):
            yield from _call_nodes(node._get_node(index), f"{path}[{index}]")


def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Change ``cfg`` in place by Hydra-style overrides, refusing unknown keys.

    Raises:
        ConfigError: an unknown key, an override that cannot be read, or a deletion.
    """
    for text in overrides:
        with _readable(text):
            _apply(cfg, text)
    return cfg


@contextlib.contextmanager
def _readable(text: str) -> Iterator[None]:
    """Turn any error of an override into a ``ConfigError`` that names it."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # Hydra, ANTLR and OmegaConf have errors of many kinds
        reason = in_one_line(error)
        raise ConfigError(f"cannot read the override {shorten(text)!r}: {reason}") from error


def parse_override(text: str) -> tuple[str, Any, bool]:
    """Read an override in Hydra's grammar, which no config is needed for.

    Returns:
        Its dotted key, its value, and whether ``+`` adds the key to the config.

    Raises:
        ConfigError: an override that cannot be read, a deletion, or a flag.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if text.startswith("--"):
        raise ConfigError(f"the flag {shorten(text)} must stand before KEY=VALUE arguments")
    with _readable(text):
        override = OverridesParser.create().parse_override(text)
    if override.is_delete():
        raise ConfigError(f"cannot read the override {text!r}: deleting is not supported")
    if override.package is not None or override.is_sweep_override():
        raise ConfigError(
            f"cannot read the override {text!r}: expected KEY=VALUE with one value; a list is "
            "written as KEY=[A,B]"
        )
    with _readable(text):
        return override.key_or_group, override.value(), override.is_add()


def _apply(cfg: DictConfig, text: str) -> None:
    key, value, is_added = parse_override(text)
    if not is_added:
        _check_key(cfg, key)
    check_kind(cfg, key, value)
    OmegaConf.update(cfg, key, value, merge=True, force_add=True)


def _check_key(cfg: DictConfig, key: str) -> None:
    """Refuse a dotted key that is neither in ``cfg`` nor accepted by its parent."""
    node: Any = cfg
    parts = key.replace("[", ".").replace("]", "").split(".")
    for depth, part in enumerate(parts):
        path, rest = ".".join(parts[:depth]), ".".join(parts[depth + 1 :])
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f"unknown key {key!r}: {path} is a list of {len(node)}, got index {part!r}"
                )
            node = node[int(part)]
        elif not isinstance(node, DictConfig):
            raise ConfigError(f"unknown key {key!r}: {path} is {node!r} and has no keys")
        elif part in node:
            node = node[part]
        else:
            known = set(map(str, node)) | _known_to(node, path)
            if part in known and not rest:
                return
            lists = {str(k) for k, value in node.items() if isinstance(value, ListConfig)}
            known = {f"{k}.0" if rest and k in lists else k for k in known - {"_target_", part}}
            hint = _did_you_mean_below(path, part, known, rest)
            hint = hint or _elsewhere(cfg, part)
            if not hint and _is_call(node):
                hint = f": {_name(node)} has no argument {part!r}"
            raise ConfigError(f"unknown key {key!r}{hint} (+{key}=... adds it anyway)")


def _known_to(node: DictConfig, path: str) -> set[str]:
    if path == "":
        return set(TOP_LEVEL)
    if path.split(".")[0] == "train":
        options: Any = train_options()
        for part in path.split(".")[1:]:
            options = options.get(part, {})
        return set(options)
    return accepted_keywords(target_of(node)) or set() if _is_call(node) else set()


def _did_you_mean_below(path: str, key: object, known: Iterable[Any], rest: str = "") -> str:
    full = {str(name): ".".join(filter(None, (path, str(name), rest))) for name in known}
    return did_you_mean(key, full, shown=full)


def _elsewhere(cfg: DictConfig, key: str) -> str:
    """Return a hint at a key of the same or a similar name elsewhere in the config."""
    places: dict[str, str] = {}
    for path, node in [("train", cfg.get("train", {})), *_call_nodes(cfg, "")]:
        places = {str(k): f"{path}.{k}" for k in node if k != "_target_"} | places
    return did_you_mean(key, places, shown=places, cutoff=0.7)


def _name(node: DictConfig) -> str:
    target = target_of(node)
    return getattr(target, "__qualname__", str(target))
