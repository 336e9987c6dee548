"""Parity of configs/vitdet with recorded weights, recipes, detections and losses of Detectron2.

``tests/golden/README.md`` describes how the numbers were recorded.
"""

import json
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch.testing import assert_close

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.pretrained import (
    FEDERATED_COUNTS,
    FEDERATED_WEIGHTS,
    convert_pretrained,
)
from tests.checkpoint import vitdet_case as case
from tests.support.configs import CONFIGS, changed, model_in

PATHS = {
    "vit_b": CONFIGS / "vitdet/cascade_mask_rcnn_vit_b_federated_100ep.py",
    "swin_b": CONFIGS / "vitdet/cascade_mask_rcnn_swin_b_federated_50ep.py",
    "swin_l": CONFIGS / "vitdet/cascade_mask_rcnn_swin_l_federated_50ep.py",
}
GOLDEN = Path("tests/golden")
SCORE_TOLERANCE = 1e-5
NUM_MASKS = 12

every_recipe = pytest.mark.parametrize("name", PATHS)
every_small_model = pytest.mark.parametrize("name", case.SMALL)

# Ignore warnings from Detectron2's transformers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*meshgrid:UserWarning", "ignore:.*timm:FutureWarning"
)


@cache
def recipes():
    return json.loads((GOLDEN / "detectron2_vitdet_recipes.json").read_text())


@cache
def recorded():
    with np.load(GOLDEN / "detectron2_vitdet_small.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}


# --- full size ---


@every_recipe
def test_weights_have_detectron2s_names_and_shapes(name):
    golden = recipes()[name]["group and shape"].items()
    published = {key: torch.empty(shape, device="meta") for key, (_, *shape) in golden}
    converted = convert_pretrained(published, model_in(PATHS[name]).state_dict())
    expected = {key: list(value.shape) for key, value in converted.items()}
    assert {
        key: list(value.shape) for key, value in model_in(PATHS[name]).state_dict().items()
    } == (expected)


@every_recipe
def test_parameters_have_detectron2s_learning_rates_and_weight_decay(name):
    model, cfg = model_in(PATHS[name]), changed(PATHS[name])
    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    given = {p: [g["lr"], g["weight_decay"]] for g in groups for p in g["params"]}
    golden = recipes()[name]
    expected = {
        key: golden["lr and weight decay"][group]
        for key, (group, *_) in golden["group and shape"].items()
        if group is not None
    }
    assert {key: given[p] for key, p in model.named_parameters()} == expected


def recipe_of(cfg):
    """Return the values of a recipe under the names of the recorded ones."""
    train, mapper = cfg.dataloader.train, cfg.dataloader.train.mapper
    trunk = cfg.model.backbone.get("net") or cfg.model.backbone.bottom_up
    heads = cfg.model.roi_heads
    predictors = heads.box_predictors
    schedule = instantiate(cfg.lr_multiplier)
    steps = [step for step, _ in recipes()["vit_b"]["recipe"]["multipliers"]]
    losses = [predictor.cls_loss for predictor in predictors]
    weights = torch.tensor(instantiate(losses[0].class_counts)()).double() ** losses[0].power
    return {
        "batch": train.total_batch_size,
        "augmentations": [called(augmentation) for augmentation in mapper.augmentations],
        "image_format": mapper.image_format,
        "recompute_boxes": mapper.recompute_boxes,
        "use_instance_mask": mapper.use_instance_mask,
        "test": [called(a)[1] for a in cfg.dataloader.test.mapper.augmentations],
        "repeat_thresh": train.sampling.threshold,
        "max_dets_per_image": cfg.dataloader.evaluator.max_dets_per_image,
        "max_iter": cfg.train.max_iter,
        "eval_period": cfg.train.eval_period,
        "amp": cfg.train.amp.enabled,
        "fp16_compression": cfg.train.ddp.fp16_compression,
        "init_checkpoint": cfg.train.init_checkpoint,
        "lr": cfg.optimizer.lr,
        "betas": list(cfg.optimizer.betas),
        "weight_decay": cfg.optimizer.weight_decay,
        "multipliers": [
            [step, pytest.approx(schedule(step / cfg.train.max_iter))]
            for step in steps
            if step < cfg.train.max_iter
        ],
        "drop_path_rate": trunk.drop_path_rate,
        "thresholds": [p.test_score_thresh for p in predictors],
        "topk": [p.test_topk_per_image for p in predictors],
        "square_pad": cfg.model.backbone.square_pad,
        "num_fed": [loss.num_sampled for loss in losses],
        "federated weights, sum and first five": pytest.approx(
            [weights.sum().item(), *weights[:5].tolist()], rel=1e-6
        ),
        "rpn": rpn_of(cfg.model.proposal_generator),
        "heads": {
            **values_of(heads, "num_classes", "batch_size_per_image", "positive_fraction"),
            "matchers": [matcher_of(matcher) for matcher in heads.proposal_matchers],
            "box weights": [list(p.box2box_transform.weights) for p in predictors],
            "nms": [p.test_nms_thresh for p in predictors],
        },
    }


def rpn_of(node):
    """Return the values of an RPN under the names of the recorded ones."""
    names = ("batch_size_per_image", "positive_fraction", "pre_nms_topk", "post_nms_topk")
    anchors = values_of(node.anchor_generator, "sizes", "aspect_ratios", "strides", "offset")
    return {
        **values_of(node, *names, "nms_thresh"),
        "matcher": matcher_of(node.anchor_matcher),
        "anchors": list(anchors.values()),
    }


def matcher_of(node):
    return list(values_of(node, "thresholds", "labels", "allow_low_quality_matches").values())


def values_of(node, *names):
    values = OmegaConf.to_container(OmegaConf.masked_copy(node, list(names)))
    return {name: values[name] for name in names}


def called(node):
    """Return the name and the arguments of a call."""
    arguments = {k: list(v) if isinstance(v, Sequence) else v for k, v in node.items()}
    target = arguments.pop("_target_")
    return [target.__name__, arguments]


@every_recipe
def test_the_recipe_is_detectron2s(name):
    cfg = changed(PATHS[name])
    assert recipe_of(cfg) == recipes()[name]["recipe"]
    assert cfg.dataloader.train.sampling.rounding == "stochastic"


# --- small models ---


@cache
def model_with_recorded_weights(name):
    """Return the small model, with its weights read from a file like those of the model zoo."""
    cfg = changed(PATHS[name])
    case.shrink(name, cfg.model)
    for predictor in cfg.model.roi_heads.box_predictors:
        predictor.cls_loss.class_counts = [1] * case.C  # the file has others
    return instantiate(cfg.model)


def as_in_the_model_zoo(folder, state):
    path = folder / "model_final.pkl"
    arrays = {key: value.numpy() for key, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    return str(path)


@pytest.fixture
def model(name, tmp_path):
    model = model_with_recorded_weights(name)
    names = {key.replace(FEDERATED_COUNTS, FEDERATED_WEIGHTS): key for key in model.state_dict()}
    shapes = {theirs: model.state_dict()[ours] for theirs, ours in names.items()}
    path = as_in_the_model_zoo(tmp_path, case.weights(shapes))
    StrictCheckpointer(model, require_all=True).load(path)
    return model


@every_small_model
@torch.no_grad()
def test_the_detections_match_detectron2(name, model):
    for image in case.IMAGES:
        expected = {
            what: recorded()[f"{name} {image} {what}"]
            for what in ("boxes", "scores", "labels", "masks")
        }
        (found,) = model.eval()([case.image(image)])
        found = found["instances"]
        assert len(found) == 50
        assert_close(found.scores, expected["scores"], rtol=0, atol=SCORE_TOLERANCE)
        # Other machines may swap neighbors whose scores differ by less than the tolerance.
        distance = torch.cdist(expected["boxes"], found.pred_boxes.tensor, p=torch.inf)
        distance[expected["labels"][:, None] != found.pred_classes] = torch.inf
        nearest, place = distance.min(dim=1)
        assert nearest.max() < 1e-3
        assert sorted(place.tolist()) == list(range(50))
        masks = found.pred_masks[place[:NUM_MASKS]]
        packed = torch.from_numpy(np.unpackbits(expected["masks"].numpy())).bool()
        same = packed[: masks.numel()].view_as(masks) == masks
        assert same.float().mean() > 0.9999


@every_small_model
def test_a_training_step_has_detectron2s_losses_and_gradients(name, model):
    model.train().zero_grad()
    with EventStorage():
        losses = model(case.training_batch())
    sum(losses.values()).backward()
    values = {f"{name} loss {key}": loss.detach().double() for key, loss in losses.items()}
    values |= {f"{name} gradient {key}": norm for key, norm in case.gradient_norms(model).items()}
    expected = {key: value for key, value in recorded().items() if key in values}
    assert len(expected) == len(values) == 9 + 9
    assert_close(values, expected, rtol=1e-4, atol=1e-9)
