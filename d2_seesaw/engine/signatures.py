"""Which keywords a callable takes: what a ``LazyCall`` node of a config may hold."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.utils.registry import locate


def target_of(node: Mapping[str, Any]) -> Callable[..., Any]:
    """The callable that ``node["_target_"]`` is or names.

    Raises:
        ValueError: nothing can be imported under that name.
    """
    target = node["_target_"]
    if isinstance(target, str):
        try:
            return locate(target)
        except Exception as error:
            raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    return target


def accepted_keywords(target: Callable[..., Any]) -> set[str] | None:
    """Names of the keywords ``target`` takes; None if it takes any.

    A constructor that passes ``**options`` on to its base class takes the keywords of both.
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
