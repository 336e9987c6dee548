"""The network of the authors of Recall Loss against numbers recorded from their code."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import LazyConfig, instantiate
from torch import nn
from torch.testing import assert_close

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.losses import RecallLoss
from tests.checkpoint.mmdet_weights import picture
from tests.modeling.authors_deeplab import LABEL_SIZE, converted, labels, renamed, state

GOLDEN = Path(__file__).parents[1] / "golden/recall_semseg_deeplab.npz"
C = 16
MEAN, STD = [55.09944, 62.203827, 71.23802], [49.56111, 51.497387, 55.363934]


@cache
def recorded():
    with np.load(GOLDEN) as file:
        return dict(file)


def built(device="cpu"):
    """Build the network for SYNTHIA; its input is BGR, as theirs."""
    model = LazyConfig.load("configs/common/models/deeplab_v3_plus_recall.py").model
    model.sem_seg_head.num_classes = C
    model.pixel_mean, model.pixel_std = MEAN, STD
    with torch.device(device):
        return instantiate(model)


@pytest.fixture(scope="module")
def model():
    shapes = dict(zip(recorded()["names"], json.loads(str(recorded()["shapes"])), strict=True))
    model = built("meta")
    model.to_empty(device="cpu")
    model.pixel_mean, model.pixel_std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    # Strict: every tensor of theirs has exactly one counterpart of the same shape.
    model.load_state_dict(converted(state({str(k): s for k, s in shapes.items()})))
    return model


def test_the_number_of_parameters_equals_the_authors():
    parameters = sum(p.numel() for p in built("meta").parameters())
    assert parameters == recorded()["parameters"] == 35_251_632


def test_logits_equal_the_authors_in_inference(model):
    inputs = [{"image": picture(name, 64, 96)} for name in "ab"]
    with torch.no_grad():
        results = model.eval()(inputs)
    logits = torch.stack([r["sem_seg"] for r in results])
    expected = torch.from_numpy(recorded()["evaluation"])
    assert_close(logits[:, :, ::7, ::7], expected, rtol=1e-4, atol=1e-4)


def test_a_training_step_equals_the_authors(model):
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    head = model.sem_seg_head
    head.decoder["res5"]["project_conv"].dropout = 0.0
    head.loss = RecallLoss(C, reduction="ref")
    seen = []
    hook = head.loss.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    inputs = [
        {"image": picture(name, *LABEL_SIZE), "sem_seg": target}
        for name, target in zip("cd", labels(), strict=True)
    ]
    loss = model(inputs)["loss_sem_seg"]
    loss.backward()
    hook.remove()
    numbers = recorded()
    expected = torch.from_numpy(numbers["training logits"])
    assert_close(seen[0][:, :, ::8, ::8], expected, rtol=1e-3, atol=1e-3)
    assert_close(loss.detach(), torch.tensor(numbers["loss"]), rtol=1e-5, atol=0)
    parameters = dict(model.named_parameters())
    norms = [
        parameters[renamed(str(name))].grad.double().norm().item()
        for name in numbers["parameter names"]
    ]
    np.testing.assert_allclose(norms, numbers["gradient norms"], rtol=1e-3)
    for key, expected in numbers.items():
        if key.startswith("state "):
            value = model.state_dict()[renamed(key.removeprefix("state "))][::8]
            assert_close(value, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_weights_start_as_the_authors_code_initializes_them():
    torch.manual_seed(0)
    model = built()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        fan = module.out_channels if name.startswith("backbone") else module.in_channels
        expected = (2 / (fan * module.kernel_size[0] ** 2)) ** 0.5
        assert abs(module.weight.std() / expected - 1) < 0.1, name
    assert 0.03 < model.sem_seg_head.predictor.bias.abs().max() <= 1 / 16
    dropouts = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.5, 0.1]
    assert model.sem_seg_head.decoder["res5"]["project_conv"].dropout == 0.5


def test_torchvisions_weights_are_loaded_where_name_and_shape_are_theirs(tmp_path):
    source = torchvision.models.resnet18().state_dict()
    torch.save(source, tmp_path / "resnet18.pth")
    shapes = dict(zip(recorded()["names"], json.loads(str(recorded()["shapes"])), strict=True))
    # Their rule, on their names.
    taken = {k for k, v in source.items() if list(v.shape) == shapes.get(f"backbone.{k}")}
    taken -= {k for k in taken if k.endswith("num_batches_tracked")}
    model = built()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    before |= {renamed(f"backbone.{k}"): source[k] for k in taken}
    StrictCheckpointer(model, allow_partial=True).load(str(tmp_path / "resnet18.pth"))
    assert len(taken) == 5 + 8 * 9  # the stem; two norms and one convolution of each block
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
