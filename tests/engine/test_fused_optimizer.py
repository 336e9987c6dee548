"""Trainings with a fused optimizer. The oracle is torch's optimizer that is not fused."""

import copy
import logging

import pytest
import torch
from torch import nn

from d2_seesaw.engine import ConfigError, Trainer, load_config

SGD, ADAMW, ADAM = (
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": False}),
    ("AdamW", {"lr": 0.05, "weight_decay": 1e-2}),
    ("Adam", {"lr": 0.05}),
)


class Net(nn.Module):
    """Convolutions, of which one has no gradient in the first steps."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.later = nn.Conv2d(3, 4, 3)
        self.steps = 0

    def forward(self, batch):
        x = torch.stack([image["x"] for image in batch])
        self.steps += 1
        y = self.first(x) + (self.later(x) if self.steps > 3 else 0)
        return {"loss": (y.float() - 1).square().mean() * batch[0].get("factor", 1.0)}


def batches(steps, *, overflows=()):
    drawn = torch.randn(steps, 2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    factors = [1e9 if step in overflows else 1.0 for step in range(steps)]
    pairs = zip(drawn, factors, strict=True)
    return [[{"x": x, "factor": factor} for x in pair] for pair, factor in pairs]


def new_trainer(optimizer, data, *, fused, channels_last=False, **options):
    name, given = optimizer
    torch.manual_seed(0)
    model = Net()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    built = getattr(torch.optim, name)(model.parameters(), **given, fused=fused or None)
    trainer = Trainer(model, data, built, seed=0, **options)
    if trainer.grad_scaler.is_enabled():
        trainer.grad_scaler.load_state_dict(trainer.grad_scaler.state_dict() | {"scale": 8.0})
    return trainer


def results(trainer):
    """Return weights and state of the optimizer."""
    found = dict(trainer.model.named_parameters())
    for name, weight in trainer.model.named_parameters():
        state = trainer.optimizer.state[weight].items()
        found |= {f"{name}.{key}": torch.as_tensor(value) for key, value in state}
    return {name: value.detach().clone() for name, value in found.items()}


@pytest.mark.parametrize(
    "options", [{}, {"max_norm": 0.3}, {"max_value": 0.05}, {"accumulate_steps": 2}], ids=str
)
@pytest.mark.parametrize("optimizer", [SGD, ADAMW, ADAM], ids=lambda each: each[0])
@pytest.mark.parametrize("channels_last", [False, True])
def test_several_steps_equal_those_that_are_not_fused(channels_last, optimizer, options):
    found = []
    for fused in (True, False):
        trainer = new_trainer(
            optimizer, batches(12), fused=fused, channels_last=channels_last, **options
        )
        trainer.train(0, 12 // options.get("accumulate_steps", 1))
        found.append(results(trainer))
    torch.testing.assert_close(*found, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda each: each[0])
@pytest.mark.parametrize("max_norm", [None, 0.3])
def test_steps_that_overflow_in_float16_are_skipped_alike(max_norm, optimizer):
    """The first step is among them: torch's own fused SGD has no momentum then."""
    found = []
    for fused in (True, False):
        options = {"amp_dtype": "float16", "max_norm": max_norm}
        trainer = new_trainer(optimizer, batches(9, overflows=(0, 5)), fused=fused, **options)
        trainer.train(0, 9)
        assert trainer.grad_scaler.get_scale() == 2.0  # halved twice
        found.append(results(trainer))
    torch.testing.assert_close(*found, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda each: each[0])
def test_a_resumed_training_equals_one_in_one_part(optimizer, caplog):
    data = batches(10)
    straight = new_trainer(optimizer, data, fused=True)
    straight.train(0, 10)
    first = new_trainer(optimizer, data[:2], fused=True)
    first.train(0, 2)  # before the second convolution has a gradient
    second = new_trainer(optimizer, data[2:], fused=True)
    second.model.load_state_dict(first.model.state_dict())
    second.model.steps = 2
    with caplog.at_level(logging.WARNING):
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert caplog.records == []
    second.train(2, 10)
    torch.testing.assert_close(results(second), results(straight), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda each: each[0])
@pytest.mark.parametrize("fused", [True, False])
def test_a_resumed_training_takes_the_setting_of_its_config_and_says_so(fused, optimizer, caplog):
    data = batches(10)
    straight = new_trainer(optimizer, data, fused=False)
    straight.train(0, 10)
    first = new_trainer(optimizer, data[:2], fused=not fused)
    first.train(0, 2)
    # Another memory format as well: a fused step reads the momentum as flat memory.
    second = new_trainer(optimizer, data[2:], fused=fused, channels_last=True)
    second.model.load_state_dict(first.model.state_dict())
    second.model.steps = 2
    with caplog.at_level(logging.WARNING):
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"fused optimizer {fused} instead of {not fused}" in warning
    assert {group["fused"] or False for group in second.optimizer.param_groups} == {fused}
    second.train(2, 10)
    torch.testing.assert_close(results(second), results(straight), rtol=2e-5, atol=1e-6)


def test_dampening_is_refused():
    optimizer = ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5})
    with pytest.raises(ValueError, match=r"needs optimizer\.dampening=0, got 0\.5"):
        new_trainer(optimizer, [], fused=True)


def test_an_optimizer_without_a_fused_form_is_refused(tmp_path):
    (tmp_path / "other.py").write_text(
        "from detectron2.config import LazyCall as L\nfrom torch.optim import Adadelta\n"
        "optimizer = L(Adadelta)(lr=1.0)\n"
    )
    with pytest.raises(ConfigError, match=r"'optimizer\.fused': Adadelta has no argument 'fused'"):
        load_config(str(tmp_path / "other.py"), ["optimizer.fused=True"])
