"""One training step of whole models against a recorded one of mmdet 3.3.0, from the same weights.

``tests/golden/README.md`` describes how the numbers were recorded. mmdet is not needed here.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_seesaw.checkpoint import convert_mmdet
from d2_seesaw.checkpoint.mmdet import rename
from d2_seesaw.engine import load_config
from tests.checkpoint.mmdet_shapes import mmdet_shapes
from tests.checkpoint.mmdet_weights import mmdet_state, picture, uniform
from tests.checkpoint.test_mmdet_parity import ARCHITECTURES, C, golden, narrow

# The first image pads the second one, which has few anchors, in a cascade no negative one.
SIZES = {"mask_rcnn": ((96, 150), (30, 30)), "cascade_mask_rcnn": ((96, 150), (40, 56))}

each_architecture = pytest.mark.parametrize(
    "name", ["mask_rcnn", pytest.param("cascade_mask_rcnn", marks=pytest.mark.slow)]
)


def recorded(name):
    return golden(f"{name}_training_step")


def config(name):
    cfg = load_config(f"configs/mmdet/{ARCHITECTURES[name]}_seesaw.py")
    narrow(cfg.model)
    cfg.model.roi_heads.batch_size_per_image = 64
    return cfg


def inputs(name):
    batch = []
    for i, (height, width) in enumerate(SIZES[name]):
        boxes = torch.from_numpy(recorded(name)[f"objects {i}"])
        masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0 : (y0 + y1 + 1) // 2, x0:x1] = True
        objects = Instances(
            (height, width),
            gt_boxes=Boxes(boxes),
            gt_classes=torch.from_numpy(recorded(name)[f"classes {i}"]).long(),
            gt_masks=BitMasks(masks),
        )
        batch.append({"image": picture(f"step image {i}", height, width), "instances": objects})
    return batch


class RecordedSampling:
    """Sampling of a model that draws what mmdet drew, from candidates that must be mmdet's."""

    def __init__(self, model, name):
        self.arrays = recorded(name)
        self.image = self.stage = 0
        self.heads = model.roi_heads
        self.label_and_sample = self.heads.label_and_sample_proposals
        model.proposal_generator._subsample_labels = self.anchors
        self.heads.label_and_sample_proposals = self.label_and_sample_proposals
        self.heads._sample_proposals = self.rois

    def anchors(self, labels):
        assigned = torch.from_numpy(self.arrays[f"anchors assigned {self.image}"])
        sampled = torch.from_numpy(self.arrays[f"anchors sampled {self.image}"])
        assert labels.tolist() == assigned[assigned != -2].clamp(max=1).tolist()
        self.image += 1
        return sampled

    def label_and_sample_proposals(self, proposals, targets):
        self.boxes = [
            torch.cat([p.proposal_boxes.tensor, t.gt_boxes.tensor])
            for p, t in zip(proposals, targets, strict=True)
        ]
        self.image = 0
        sampled = self.label_and_sample(proposals, targets)
        self.stage += 1
        return sampled

    def rois(self, matches, labels, classes):
        rois = torch.from_numpy(self.arrays[f"rois {self.stage} {self.image}"])
        matched = torch.from_numpy(self.arrays[f"matched {self.stage} {self.image}"]).long()
        background = torch.full((len(rois) - len(matched),), -1)
        given = torch.where(labels == 1, matches, -1)
        distance = torch.cdist(rois.double(), self.boxes[self.image].double(), p=torch.inf)
        distance[torch.cat([matched, background])[:, None] != given] = torch.inf
        distance, chosen = distance.min(dim=1)
        assert distance.max() < 1e-2, "mmdet sampled RoIs that are missing or matched otherwise"
        assert len(chosen.unique()) == len(chosen)
        self.image += 1
        return chosen, torch.where(given == -1, C, classes[matches])[chosen]


def mmdet_name(loss):
    loss = loss.replace("loss_rpn_loc", "loss_rpn_bbox").replace("loss_box_reg", "loss_bbox")
    kind, _, stage = loss.partition("_stage")
    return f"s{stage}.{kind}" if stage else kind


@cache
def step(name):
    cfg = config(name)
    model = instantiate(cfg.model).train()
    stages = 3 if "cascade" in name else None
    state = mmdet_state(mmdet_shapes(depth=50, num_classes=C, width=256, stages=stages))
    model.load_state_dict(convert_mmdet(state, model.state_dict()))
    RecordedSampling(model, name)
    with EventStorage(0):
        losses = model(inputs(name))
    sum(losses.values()).backward()
    return SimpleNamespace(cfg=cfg, model=model, losses=losses)


@each_architecture
def test_every_loss_of_a_training_step_equals_that_of_mmdet(name):
    losses = {mmdet_name(k): v.item() for k, v in step(name).losses.items()}
    expected = {k[5:]: v.item() for k, v in recorded(name).items() if k.startswith("loss ")}
    assert losses == pytest.approx(expected, rel=1e-5)


@each_architecture
def test_the_class_counts_after_a_training_step_equal_those_of_mmdet(name):
    buffers = dict(step(name).model.named_buffers())
    counts = {k[7:]: v for k, v in recorded(name).items() if k.startswith("counts ")}
    assert len(counts) == (3 if "cascade" in name else 1)
    for key, expected in counts.items():
        assert buffers[rename(key)].tolist() == expected.tolist()


@each_architecture
def test_the_gradient_of_every_parameter_equals_that_of_mmdet(name):
    weights = dict(step(name).model.named_parameters())
    assert {rename(key) for key in recorded(name)["parameters"]} == {
        key for key, weight in weights.items() if weight.requires_grad
    }
    for key, expected in zip(
        recorded(name)["parameters"], recorded(name)["gradients"], strict=True
    ):
        gradient = weights[rename(key)].grad.flatten().double().numpy()
        projections = [
            gradient @ uniform(f"projection {i} {key}", gradient.shape).astype(np.float64)
            for i in (0, 1)
        ]
        errors = np.abs(np.array([np.linalg.norm(gradient), *projections]) - expected)
        assert errors.max() <= 1e-3 * expected[0], key


@each_architecture
def test_the_optimizer_trains_each_parameter_as_that_of_mmdet(name):
    cfg, model = step(name).cfg, step(name).model
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    options = ("lr", "weight_decay", "momentum", "dampening", "nesterov")
    given = {
        id(weight): [group[option] for option in options]
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    weights = dict(model.named_parameters())
    arrays = recorded(name)
    assert len(given) == len(arrays["parameters"])
    for key, expected in zip(arrays["parameters"], arrays["optimizer"], strict=True):
        assert given[id(weights[rename(key)])] == expected.tolist()


def test_the_learning_rate_of_every_step_equals_that_of_mmdet():
    cfg = load_config("configs/mmdet/mask_rcnn_r50_fpn_seesaw.py", ["train.max_iter=2400"])
    schedule = instantiate(cfg.lr_multiplier)
    for iteration, expected in recorded("mask_rcnn")["schedule"]:
        assert cfg.optimizer.lr * schedule(iteration / 2400) == pytest.approx(expected, rel=1e-9)
