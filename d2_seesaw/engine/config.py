"""LazyConfig that refuses what nobody reads: a misspelt key is an error, not a silent default.

A key is known if the config holds it already or if what it belongs to takes it: the ``train``
options, or the signature behind a ``LazyCall``. Everything is checked before anything is built.
"""

import builtins
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from d2_seesaw.engine.config_files import find_config
from d2_seesaw.utils.text import did_you_mean

TOP_LEVEL = ("model", "dataloader", "optimizer", "lr_multiplier", "train", "tta")

# What calls Detectron2's extension module. Deformable convolutions of d2_seesaw.layers do not.
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


def train_options(**changes: Any) -> dict[str, Any]:
    """A fresh ``train`` dictionary for a config.

    Keys, beyond those of Detectron2's LazyConfig trainer:

    - ``epochs`` or ``max_iter``: the length of training, in passes over the (repeated) data or in
      steps; ``max_iter`` wins. Iterations follow from epochs once the data is loaded.
    - ``device``: ``"auto"`` is the GPU if there is one, else the CPU.
    - ``amp``: ``dtype`` is ``"float16"`` (with loss scaling) or ``"bfloat16"``. Weights stay in
      float32. On the same RoIs, losses and scores stay within 0.5 % and 5 % of full precision's.
    - ``ema``: an exponential moving average of the weights, beside those that are trained, which
      stay the same to the bit. Evaluations during training score both, the average as ``ema/...``;
      ``model_final_ema.pth`` is the average as a model of its own, for ``--eval-only``. A larger
      ``decay`` averages over more steps, about ``1 / (1 - decay)``; with ``warmup`` it grows to its
      value from 0.1.
    - ``compile``: ``torch.compile`` of the submodules in ``parts``, with its ``backend``, ``mode``
      and ``dynamic``; null is torch's default. ``backbone`` has the neck in it. Checkpoints fit
      with and without; losses and scores stay within 1e-5, gradients within 1 % of their norm.
    - ``clip_grad``: ``max_norm`` of all gradients together, ``max_value`` of each entry; null is
      off.
    - ``accumulate_steps``: batches whose gradients are averaged before each update.
    - ``reference_world_size``: the number of GPUs the recipe is written for; ``--auto-scale-lr``
      scales from it.
    - ``allow_partial_checkpoint``: train from, or evaluate, a checkpoint that does not fit the
      whole model; what does not fit stays at its initial values.
    - ``wandb``, ``mlflow``: experiment trackers that get the config, losses and metrics beside
      TensorBoard; see :class:`~d2_seesaw.engine.WandbWriter` and
      :class:`~d2_seesaw.engine.MLflowWriter`. ``--resume`` goes on with the same run.
    - ``seed``: negative for a random one.

    Args:
        changes: top-level keys to set to something else.

    Raises:
        TypeError: a key that is not one of these.
    """
    options = {
        "output_dir": "output",
        "init_checkpoint": "",
        "allow_partial_checkpoint": False,
        "epochs": None,
        "max_iter": None,
        "reference_world_size": 8,
        "accumulate_steps": 1,
        "amp": {"enabled": False, "dtype": "float16"},
        "ema": {"enabled": False, "decay": 0.9998, "warmup": True},
        "compile": {
            "enabled": False,
            "parts": ["backbone"],
            "backend": "inductor",
            "mode": None,
            "dynamic": None,
        },
        "clip_grad": {"max_norm": None, "max_value": None},
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {"period": 5000, "max_to_keep": 3},
        "wandb": {
            "enabled": False,
            "project": "d2_seesaw",
            "name": None,
            "entity": None,
            "tags": [],
            "mode": None,
        },
        "mlflow": {
            "enabled": False,
            "tracking_uri": None,
            "experiment": "d2_seesaw",
            "name": None,
        },
        "eval_period": 0,
        "log_period": 20,
        "device": "auto",
        "seed": -1,
        "cudnn_benchmark": False,
        "float32_precision": "",
    }
    unknown = changes.keys() - options.keys()
    if unknown:
        raise TypeError(f"unknown train options {sorted(unknown)}; known: {sorted(options)}")
    return options | changes


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


class ConfigError(ValueError):
    """A config, or a change to it, that would not do what it says."""


def load_config(path: str, overrides: list[str] | None = None) -> DictConfig:
    """Load a config file, apply ``key=value`` overrides and check every key.

    Args:
        path: of a ``.py`` or ``.yaml`` config, or the name of a shipped one, as
            :func:`~d2_seesaw.engine.config_files.find_config` takes it. Configs are programs: load
            only those you trust.
        overrides: in Hydra's grammar; ``key=value`` changes or sets a known key, ``+key=value``
            adds one that is not known.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: a YAML file that cannot be read or is empty, an unknown key, naming the nearest
            known one, or a part of Detectron2 that is not there because it was not compiled.
    """
    path = str(find_config(path))
    unpatched_import = builtins.__import__
    try:
        cfg: Any = LazyConfig.load(str(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())  # of several lines
        raise ConfigError(f"config {str(path)!r} cannot be read: {reason}") from error
    finally:
        # Detectron2 leaves Python's import patched when a config raises.
        builtins.__import__ = unpatched_import
    if not cfg and Path(path).suffix != ".py":  # which may only register data sets
        raise ConfigError(f"config {str(path)!r} is empty")
    check_config(cfg)
    if "train" in cfg:
        # What the config of an earlier version does not say is as it was then: the default.
        cfg.train = OmegaConf.merge(train_options(), cfg.train)
    cfg = apply_overrides(cfg, overrides or [])
    check_compiled_parts(cfg)
    return cfg


def check_config(cfg: DictConfig) -> None:
    """Refuse keys that nothing reads, anywhere in ``cfg``.

    Raises:
        ConfigError: naming the key and the nearest known one.
    """
    for key in cfg:
        if key not in TOP_LEVEL:
            hint = did_you_mean(key, TOP_LEVEL)
            raise ConfigError(
                f"unknown top-level key {key!r} in the config{hint}. Parts that only build others "
                "start with an underscore"
            )
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
    """Refuse parts of Detectron2 that need its extension module, where it was not compiled.

    Raises:
        ConfigError: naming the part, and how to get a Detectron2 that has it.
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
    """Yield each value below ``node`` that is not a container, without following interpolations."""
    if isinstance(node, DictConfig | ListConfig):
        if node._is_none() or node._is_missing() or node._is_interpolation():
            return
        keys: Any = node if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            yield from _leaves(node._get_node(key), f"{path}.{key}" if path else str(key))
    elif not node._is_interpolation():
        yield path, node._value()


def _call_nodes(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """All ``LazyCall`` nodes below ``node``, without following interpolations."""
    if isinstance(node, DictConfig):
        if node._is_none() or node._is_missing() or node._is_interpolation():
            return
        if "_target_" in node:
            yield path, node
        for key in node:
            yield from _call_nodes(node._get_node(key), f"{path}.{key}" if path else str(key))
    elif isinstance(node, ListConfig) and not (node._is_none() or node._is_interpolation()):
        for index in range(len(node)):
            yield from _call_nodes(node._get_node(index), f"{path}[{index}]")


def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Change ``cfg`` in place by Hydra-style overrides, refusing unknown keys.

    Raises:
        ConfigError: a key that is not known, an override that cannot be read or a deletion.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
            key, value = override.key_or_group, override.value()
        except HydraException as error:
            raise ConfigError(f"cannot read the override {text!r}: {error}") from error
        if override.is_delete():
            raise ConfigError(f"cannot read the override {text!r}: deleting is not supported")
        if not override.is_add():
            _check_key(cfg, key)
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    return cfg


def _check_key(cfg: DictConfig, key: str) -> None:
    """Refuse a dotted key that is neither in ``cfg`` nor known to what it belongs to."""
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
            hint = _did_you_mean_below(path, part, known - {"_target_"}, rest)
            hint = hint or _elsewhere(cfg, part)
            raise ConfigError(f"unknown key {key!r}{hint} (+{key}=... adds it anyway)")


def _known_to(node: DictConfig, path: str) -> set[str]:
    if path == "":
        return set(TOP_LEVEL)
    if path.split(".")[0] == "train":
        options: Any = train_options()
        for part in path.split(".")[1:]:
            options = options.get(part, {})
        return set(options)
    return accepted_keywords(target_of(node)) or set() if "_target_" in node else set()


def _did_you_mean_below(path: str, key: object, known: Iterable[Any], rest: str = "") -> str:
    full = {str(name): ".".join(filter(None, (path, str(name), rest))) for name in known}
    return did_you_mean(key, full, shown=full)


def _elsewhere(cfg: DictConfig, key: str) -> str:
    """A hint at a key of (nearly) that name in another place of the config."""
    places: dict[str, str] = {}
    for path, node in [("train", cfg.get("train", {})), *_call_nodes(cfg, "")]:
        places = {str(k): f"{path}.{k}" for k in node if k != "_target_"} | places
    return did_you_mean(key, places, shown=places, cutoff=0.7)


def _name(node: DictConfig) -> str:
    target = target_of(node)
    return getattr(target, "__qualname__", str(target))
