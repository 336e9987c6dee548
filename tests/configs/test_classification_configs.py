"""Configs of classification and of second phases: the published recipe, and what differs."""

from typing import Any

import pytest
from detectron2.config import instantiate
from torch import nn

from d2_seesaw.data import (
    ClassBalancedSampling,
    ProgressivelyBalancedSampling,
    RandomSampling,
    RepeatFactorSampling,
    SquareRootSampling,
)
from d2_seesaw.layers import NormedLinear, TauNormalizedLinear
from d2_seesaw.losses import SeesawCrossEntropyLoss, SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling import DecoupledClassifier, DecoupledRCNN, ImageClassifier
from tests.support.configs import CONFIGS, all_of, model_in, plain, read

IMAGENET = CONFIGS / "classification"
DECOUPLED = CONFIGS / "lvis_v1/decoupled"
# Sampling, model, loss, and epochs, by the end of the name.
RECIPES = {
    "softmax_90e": (RandomSampling, ImageClassifier, nn.CrossEntropyLoss, 90),
    "seesaw_90e": (RandomSampling, ImageClassifier, SeesawCrossEntropyLoss, 90),
    "softmax_class_balanced_90e": (
        *(ClassBalancedSampling, ImageClassifier, nn.CrossEntropyLoss, 90),
    ),
    "softmax_square_root_90e": (SquareRootSampling, ImageClassifier, nn.CrossEntropyLoss, 90),
    "softmax_progressively_balanced_90e": (
        *(ProgressivelyBalancedSampling, ImageClassifier, nn.CrossEntropyLoss, 90),
    ),
    "softmax_crt_10e": (ClassBalancedSampling, DecoupledClassifier, nn.CrossEntropyLoss, 10),
    "softmax_lws_5e": (ClassBalancedSampling, DecoupledClassifier, nn.CrossEntropyLoss, 5),
    "softmax_tau_normalized": (RandomSampling, ImageClassifier, nn.CrossEntropyLoss, 90),
    "seesaw_decoupled_10e": (
        *(ClassBalancedSampling, DecoupledClassifier, SeesawCrossEntropyLoss, 10),
    ),
}


def slow_but(names, *default):
    """Return parameters that are slow but for some, which have all kinds of parts."""
    marks = {name: () if name in default else pytest.mark.slow for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


def imagenet(name):
    return IMAGENET / f"imagenet_lt_resnext50_{name}.py"


def test_every_recipe_of_imagenet_lt_is_tested():
    assert {imagenet(name) for name in RECIPES} == set(IMAGENET.glob("*.py"))


@pytest.mark.parametrize("name", slow_but(RECIPES, "seesaw_90e", "softmax_lws_5e"))
def test_a_recipe_has_the_published_options(name):
    cfg, (sampling, kind, loss, epochs) = read(imagenet(name)), RECIPES[name]
    optimizer = {k: cfg.optimizer[k] for k in ("lr", "momentum", "weight_decay")}
    assert optimizer == {"lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4}
    assert cfg.dataloader.train.total_batch_size == 512
    assert cfg.train.epochs == epochs
    assert type(instantiate(cfg.dataloader.train.sampling)) is sampling
    model = model_in(imagenet(name))
    assert type(model) is kind
    assert type(model.loss) is loss
    assert model.classifier.out_features == model.num_classes == 1000
    if loss is SeesawCrossEntropyLoss:
        assert (model.loss.p, model.loss.q, model.loss.ignore_index) == (0.8, 1.0, -1)
    wanted = NormedLinear if loss is SeesawCrossEntropyLoss else nn.Linear
    wanted = TauNormalizedLinear if "tau" in name else wanted
    assert type(model.classifier) is wanted
    if kind is DecoupledClassifier:
        assert model.init == ("scale" if "lws" in name else "random")
        assert cfg.train.init_checkpoint.endswith("resnext50_softmax_90e/model_final.pth")


def test_progressive_sampling_follows_the_number_of_epochs():
    cfg = read(imagenet("softmax_progressively_balanced_90e"))
    assert cfg.dataloader.train.sampling.epochs == 90


def test_models_are_chosen_by_the_validation_split():
    cfg = read(imagenet("softmax_90e"))
    assert cfg.dataloader.test.dataset.names == "imagenet_lt_val"
    assert cfg.train.best_checkpoint.metric == "classification/accuracy"


SECOND_PHASES = sorted(path.stem for path in DECOUPLED.glob("*_1x.py"))


@pytest.mark.parametrize("stem", slow_but(SECOND_PHASES, "mask_rcnn_r50_fpn_softmax_lws_1x"))
def test_a_second_phase_trains_the_classifiers_of_its_first_phase(stem):
    path = DECOUPLED / f"{stem}.py"
    cfg, model = read(path), model_in(path)
    assert type(model) is DecoupledRCNN
    assert model.init == ("scale" if "lws" in path.stem else "random")
    loss = SeesawLoss if "seesaw" in path.stem else SoftmaxLoss
    predictors = all_of(model.roi_heads.box_predictor)
    assert len(predictors) == (3 if "cascade" in path.stem else 1)
    assert {type(p.cls_loss) for p in predictors} == {loss}
    sampling = RepeatFactorSampling if loss is SeesawLoss else ClassBalancedSampling
    assert type(instantiate(cfg.dataloader.train.sampling)) is sampling
    assert cfg.train.epochs == 12
    first = cfg.train.init_checkpoint.removeprefix("output/").removesuffix("/model_final.pth")
    first = read(CONFIGS / f"{first}.py")
    assert without_second_phase(cfg) == without_second_phase(first)


def without_second_phase(cfg):
    """Return the model of a config as plain values, without what a second phase may replace."""
    config: Any = plain(cfg)
    model = config["model"]
    heads = model["roi_heads"]
    for predictor in heads.get("box_predictors") or [heads["box_predictor"]]:
        del predictor["cls_score"], predictor["cls_loss"]
    return {k: v for k, v in model.items() if k not in ("init", "fresh_counts", "_target_")}
