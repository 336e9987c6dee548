"""Checks of the values in a config: the kind that an override keeps, and ranges of options."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class ConfigError(ValueError):
    """Error in a config or an override."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int, *, optional: bool = False) -> tuple[str, Callable[[Any], bool]]:
    def fits(value: Any) -> bool:
        if value is None:
            return optional
        return type(value) is int and value >= least

    return f"a whole number of at least {least}{' or null' if optional else ''}", fits


def _number(
    least: float, *, below: float = math.inf, optional: bool = False
) -> tuple[str, Callable[[Any], bool]]:
    def fits(value: Any) -> bool:
        if value is None:
            return optional
        return _is_number(value) and least <= value < below

    end = "" if math.isinf(below) else f" and below {below:g}"
    return f"a number of at least {least:g}{end}{' or null' if optional else ''}", fits


def _text(*, optional: bool = False) -> tuple[str, Callable[[Any], bool]]:
    def fits(value: Any) -> bool:
        return isinstance(value, str) or (value is None and optional)

    return f"text{' or null' if optional else ''}", fits


_TRUTH = ("true or false", lambda value: isinstance(value, bool))

_OPTIONS = {
    "train.output_dir": _text(optional=True),
    "train.init_checkpoint": _text(optional=True),
    "train.allow_partial_checkpoint": _TRUTH,
    "train.epochs": _number(0, optional=True),
    "train.max_iter": _whole(1, optional=True),
    "train.reference_world_size": _whole(1),
    "train.accumulate_steps": _whole(1),
    "train.max_bad_images": _whole(0),
    "train.amp.enabled": _TRUTH,
    "train.ema.enabled": _TRUTH,
    "train.ema.decay": _number(0, below=1),
    "train.compile.enabled": _TRUTH,
    "train.channels_last": _TRUTH,
    "train.prefetch_to_device": _TRUTH,
    "train.clip_grad.max_norm": _number(0, optional=True),
    "train.clip_grad.max_value": _number(0, optional=True),
    "train.checkpointer.period": _whole(1),
    "train.checkpointer.max_to_keep": _whole(1, optional=True),
    "train.best_checkpoint.metric": _text(optional=True),
    "train.best_checkpoint.mode": ("max or min", lambda value: value in ("max", "min")),
    "train.early_stopping.metric": _text(optional=True),
    "train.early_stopping.patience": _whole(1),
    "train.early_stopping.min_delta": _number(0),
    "train.early_stopping.mode": ("max or min", lambda value: value in ("max", "min")),
    "train.eval_period": _whole(0),
    "train.log_period": _whole(1),
    "train.device": _text(),
    "train.rank_timeout": _number(1, optional=True),
    "train.seed": (
        "a whole number below 2**32; a negative one draws a seed",
        lambda value: type(value) is int and value < 2**32,
    ),
    "dataloader.train.total_batch_size": _whole(1),
    "dataloader.train.num_workers": _whole(0),
    "dataloader.test.num_workers": _whole(0),
    "model.num_classes": _whole(1),
    "model.roi_heads.num_classes": _whole(1),
    "optimizer.lr": _number(0),
}


def check_values(cfg: DictConfig) -> None:
    """Refuse options whose value is not of their kind or out of range.

    Raises:
        ConfigError: such an option with its value and the expected one, a number that is not
            finite, or a reference to a key that does not exist.
    """
    for key, (expected, fits) in _OPTIONS.items():
        try:
            present = _has(cfg, key)
            value = OmegaConf.select(cfg, key) if present else None
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key} cannot be resolved: {in_one_line(error)}") from error
        if present:
            _refuse_not_finite(key, value)
            if not fits(value):
                raise ConfigError(f"{key} must be {expected}, got {value!r}")


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent)
    return isinstance(node, DictConfig) and name in node


def check_kind(cfg: DictConfig, key: str, value: Any) -> None:
    """Refuse an override that turns a part into a value, or a number into text.

    ``null`` and interpolations may replace everything but a whole section, and lists may replace
    single values.

    Raises:
        ConfigError: such an override, or a number that is not finite.
    """
    _refuse_not_finite(key, value)
    before = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
    if isinstance(before, DictConfig):
        required = "." not in key or key.startswith("train.") or key == "dataloader.evaluator"
        optional = value is None and not required
        if not (optional or isinstance(value, Mapping | list) or _is_interpolation(value)):
            raise ConfigError(f"{key} is a section with keys, got {value!r}: {key}.KEY=VALUE")
    elif value is None or _is_interpolation(value):
        return
    elif isinstance(before, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false, got {value!r}")
    elif _is_number(before) and (isinstance(value, str | bool | Mapping)):
        raise ConfigError(f"{key} must be a number as {before!r} is, got {value!r}")


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _refuse_not_finite(key: str, value: Any) -> None:
    for number in _leaves(value):
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{key} must be a finite number, got {number}")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | ListConfig):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def in_one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks, or its class if it has none."""
    return shorten(" ".join(str(error).split())) or type(error).__name__


def shorten(text: str, limit: int = 300) -> str:
    """Return the start of a text that is longer than ``limit`` characters."""
    return text if len(text) <= limit else f"{text[:limit]}..."
