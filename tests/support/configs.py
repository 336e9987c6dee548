"""Shipped configs, each loaded, saved, reloaded and built once per test session."""

import contextlib
import os
import pickle
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.overrides import TorchFunctionMode

from d2_seesaw.engine import apply_overrides, load_config
from d2_seesaw.engine.config import target_of
from d2_seesaw.modeling import HTCMaskHeads
from tests.support.shipped_configs import results

CONFIGS = Path("configs")
LEAVES = sorted(p for p in CONFIGS.rglob("*.py") if "common" not in p.parts)
QUICKSTART = CONFIGS / "quickstart/seesaw.py"


_QUICKSTART_PARTS = (
    *("seesaw", "challenge", "htc", "htc_lite", "decoupled_crt", "classification_lws"),
    *("semantic_recall", "semantic_seesaw"),
)


def _is_tested_by_default(path):
    """Return whether a leaf is one of those that together have every part of all configs."""
    if path.parent.name == "quickstart":
        return path.stem in _QUICKSTART_PARTS
    if path.parent.name == "challenge":
        return path.stem[:6] in ("step00", "step09", "step10")
    siblings = [leaf for leaf in LEAVES if leaf.parent == path.parent]
    return siblings.index(path) % 4 == 0


def each(paths):
    """Parametrize a test over configs. Most variants of a family are slow tests."""
    cases = [
        pytest.param(path, marks=() if _is_tested_by_default(path) else pytest.mark.slow)
        for path in paths
    ]
    return pytest.mark.parametrize(
        "path", cases, ids=lambda p: str(p.relative_to(CONFIGS).with_suffix(""))
    )


@cache
def read(path):
    """Load a config. Tests share it and must not change it."""
    return load_config(str(path))


def changed(path, *overrides):
    """Return a copy of a config, with ``key=value`` overrides."""
    return apply_overrides(copied(read(path)), list(overrides))


def copied(cfg):
    """Return a copy of a config, which takes a fifth of the time of ``copy.deepcopy``."""
    return pickle.loads(pickle.dumps(cfg))


def through_yaml(cfg):
    """Save a config and load it again."""
    with tempfile.TemporaryDirectory() as folder:
        LazyConfig.save(cfg, f"{folder}/config.yaml")
        assert os.listdir(folder) == ["config.yaml"]  # no .pkl: it was saved as plain YAML
        return load_config(f"{folder}/config.yaml")


@cache
def reloaded(path):
    """Load a config, save it and load it again. Tests share it as well."""
    return results.get(f"reloaded {path}", lambda: through_yaml(read(path)))


_models = {}


def model_in(path):
    """Build the model of the saved config on the meta device. Tests share it as well.

    Configs with equal models, such as those that differ in their sampling, share one.
    """
    cfg = reloaded(path)
    key = str(cfg.model)
    if key not in _models:
        _models[key] = build_model(cfg)
    return _models[key]


class CheapMetaTensors(TorchFunctionMode):
    """Mode for the meta device: without random numbers, and with ``torch.linspace`` on the CPU.

    Detectron2's transformers read the values of drop path rates, which meta tensors lack.
    """

    RANDOM = frozenset(("kaiming_uniform_", "normal_", "uniform_"))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs["device"] = "cpu"
        elif getattr(function, "__name__", "") in self.RANDOM:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:  # the operators are slow, for nothing
                return tensor
        return function(*args, **kwargs)


@contextlib.contextmanager
def meta_device():
    """Build models without memory for their weights within the block."""
    with torch.device("meta"), CheapMetaTensors():
        yield


def build_model(cfg):
    """Build a model on the meta device."""
    with meta_device():
        return instantiate(without_download(cfg).model)


def without_download(cfg):
    """Return a copy of a config that starts from random weights."""
    cfg = copied(cfg)
    for trunk in ("bottom_up", "net"):
        if "pretrained" in cfg.model.backbone.get(trunk, {}):
            cfg.model.backbone[trunk].pretrained = False
    return cfg


def plain(cfg):
    """Return a config as plain dicts and lists in which targets are given by name."""
    return _located(OmegaConf.to_container(cfg, resolve=False))


def _located(value):
    if isinstance(value, dict):
        found = {key: _located(child) for key, child in value.items()}
        return found | ({"_target_": target_of(value)} if "_target_" in value else {})
    return [_located(child) for child in value] if isinstance(value, list) else value


def all_of(module):
    """Return the modules of all cascade stages as a list; one module for Mask R-CNN."""
    return list(module) if isinstance(module, (nn.ModuleList, HTCMaskHeads)) else [module]


def predictors_of(cfg):
    """Return the configs of the box predictors, one per stage."""
    heads = cfg.model.roi_heads
    return heads.box_predictors if "box_predictors" in heads else [heads.box_predictor]


def with_seesaw(path):
    """Return a copy of a config, with Seesaw Loss in its box predictors."""
    cfg = changed(path)
    part = LazyConfig.load("configs/common/heads/classification.py", "seesaw")
    for predictor in predictors_of(cfg):
        predictor.update(part)
    return cfg


def add_tsd(cfg, *, seesaw):
    """Put the parts of TSD into the config of a cascade."""
    tsd = LazyConfig.load("configs/common/heads/tsd.py")
    heads = cfg.model.roi_heads
    heads.box_pooler.update(tsd.box_pooler)
    for box_head, predictor in zip(heads.box_heads, heads.box_predictors, strict=True):
        box_head.update(tsd.box_head)
        predictor.update(tsd.box_predictor)
        if seesaw:
            predictor.update(tsd.seesaw)
