import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw.engine import EMAHook, Trainer
from d2_seesaw.losses import EqualizationLossV2


class Net(nn.Module):
    """Model with all kinds of state: weights, frozen weights, statistics and class counts."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("class_counts", torch.zeros(3, dtype=torch.int64))

    def forward(self, batch):
        self.class_counts += 2**40 + 1
        x = torch.stack([image["x"] for image in batch])
        return {"loss": self.norm(self.frozen(self.linear(x))).float().pow(4).mean()}


def batches(count, size=4):
    return [[{"x": torch.randn(3)} for _ in range(size)] for _ in range(count)]


def ema_training(data, folder, model=None, *, accumulate_steps=1, **options):
    """Return a trainer of a copy of the model, before its first step, and its average."""
    model = copy.deepcopy(model or Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, data, optimizer, accumulate_steps=accumulate_steps)
    ema = EMAHook(model, str(folder), **options)
    trainer.register_hooks([ema])
    return trainer, ema


class History:
    """Recorder of the model's state after each optimizer step."""

    def __init__(self, trainer):
        self.states = []
        trainer.optimizer.register_step_post_hook(self.note)
        self.model = trainer.model

    def note(self, *_):
        self.states.append(copy.deepcopy(self.model.state_dict()))


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


AVERAGED = ("linear.weight", "linear.bias", "norm.weight", "norm.bias")
AVERAGED += ("norm.running_mean", "norm.running_var")
COPIED = ("frozen.weight", "frozen.bias", "norm.num_batches_tracked", "class_counts")


@pytest.mark.parametrize("warmup", [True, False])
def test_average_is_the_weighted_sum_of_the_weights_after_each_step(tmp_path, warmup):
    model = Net()
    trainer, ema = ema_training(batches(12), tmp_path, model, decay=0.5, warmup=warmup)
    history = History(trainer)
    trainer.train(0, 12)
    decays = [min(0.5, t / (t + 9)) if warmup else 0.5 for t in range(1, 13)]
    assert not warmup or decays[7] < decays[8] == decays[11] == 0.5
    # Unrolled: each state has the weight (1 - its decay) times all later decays.
    states, shares = [model.state_dict(), *history.states], [1.0, *(1 - d for d in decays)]
    for i in range(len(states)):
        for later in decays[i:]:
            shares[i] *= later
    assert sum(shares) == pytest.approx(1)
    for name in AVERAGED:
        expected = sum(share * state[name] for share, state in zip(shares, states, strict=True))
        assert_close(ema.averaged.state_dict()[name], expected)
        assert not torch.equal(expected, states[-1][name])


def test_class_counts_and_frozen_weights_are_copied(tmp_path):
    trainer, ema = ema_training(batches(3), tmp_path, decay=0.9)
    trainer.model.frozen.weight[0, 0] = float("inf")  # averaging would give NaN
    trainer.train(0, 0)
    trainer.model.frozen.weight[0, 0] = -float("inf")
    trainer.model.class_counts += 5
    ema.update()
    for name in COPIED:
        assert torch.equal(ema.averaged.state_dict()[name], trainer.model.state_dict()[name])
    assert set(AVERAGED) | set(COPIED) == set(trainer.model.state_dict())


def test_sums_that_a_loss_accumulates_are_copied(tmp_path):
    loss = EqualizationLossV2(2)
    trainer, ema = ema_training([], tmp_path, nn.ModuleList([Net(), loss]), decay=0.9)
    trainer.train(0, 0)
    trainer.model[1].positive_gradients += 1
    ema.update()
    assert torch.equal(ema.averaged[1].positive_gradients, torch.ones(2, dtype=torch.float64))


def test_with_zero_decay_the_average_equals_the_weights(tmp_path):
    trainer, ema = ema_training(batches(3), tmp_path, decay=0.0)
    trainer.train(0, 3)
    assert_equal_states(ema.averaged.state_dict(), trainer.model.state_dict())


def test_averaging_does_not_change_training_bit_for_bit(tmp_path):
    model, data = Net(), batches(3)
    with_ema, _ = ema_training(data, tmp_path, model)
    plain = copy.deepcopy(model)
    Trainer(plain, data, torch.optim.SGD(plain.parameters(), lr=0.1)).train(0, 3)
    with_ema.train(0, 3)
    assert_equal_states(with_ema.model.state_dict(), plain.state_dict())


def test_average_starts_from_weights_loaded_after_its_creation(tmp_path):
    trainer, ema = ema_training([], tmp_path)
    trainer.model.load_state_dict(Net().state_dict())
    trainer.train(0, 0)
    assert_equal_states(ema.averaged.state_dict(), trainer.model.state_dict())


def test_accumulated_batches_count_as_one_step(tmp_path):
    trainer, ema = ema_training(batches(6), tmp_path, accumulate_steps=3)
    trainer.train(0, 2)
    assert ema.steps == 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_skipped_by_the_loss_scaler_is_not_averaged(tmp_path, fused):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    trainer = Trainer(model, batches(4), optimizer, amp_dtype="float16")
    trainer.grad_scaler.load_state_dict(trainer.grad_scaler.state_dict() | {"scale": 8.0})
    ema = EMAHook(model, str(tmp_path))
    trainer.register_hooks([ema])
    overflow = model.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer.train(0, 1)
    assert (ema.steps, ema.averaged.class_counts.sum()) == (0, 0)
    overflow.remove()
    trainer.train(1, 4)  # a second call must not average each step twice
    assert ema.steps == 3


def test_a_step_that_stops_training_is_not_averaged(tmp_path):
    data = batches(2)
    data[1][0]["x"][0] = float("nan")
    trainer, ema = ema_training(data, tmp_path)
    with pytest.raises(FloatingPointError):
        trainer.train(0, 2)
    assert ema.steps == 1
    assert ema.averaged.norm.running_mean.isfinite().all()
    assert not (tmp_path / "model_final_ema.pth").exists()


def test_a_resumed_average_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    model, data = Net(), batches(15)
    whole, expected = ema_training(data, tmp_path, model, decay=0.6)
    whole.train(0, 15)
    first, _ = ema_training(data[:7], tmp_path, model, decay=0.6)
    first.train(0, 7)
    torch.save([first.model.state_dict(), first.state_dict()], tmp_path / "checkpoint.pth")
    weights, state = torch.load(tmp_path / "checkpoint.pth")
    second, ema = ema_training(data[7:], tmp_path, decay=0.6)
    second.model.load_state_dict(weights)
    second.load_state_dict(state)
    second.train(7, 15)
    assert ema.steps == expected.steps == 15
    assert_equal_states(ema.averaged.state_dict(), expected.averaged.state_dict())


def test_an_average_that_is_resumed_before_its_first_step_keeps_its_buffers(tmp_path):
    """Float16 may have skipped all steps so far, while batch norm has seen their images."""
    first, average = ema_training(batches(1), tmp_path)
    first.model.norm.running_mean += 1
    state = average.state_dict()
    resumed, other = ema_training(batches(1), tmp_path, first.model)
    other.load_state_dict(state)
    resumed.train(0, 0)
    assert_equal_states(other.averaged.state_dict(), state["model"])


def test_without_a_saved_average_it_restarts_from_the_weights(tmp_path):
    model = Net()
    plain = Trainer(model, batches(1), torch.optim.SGD(model.parameters(), lr=0.1))
    plain.train(0, 1)
    trainer, ema = ema_training([], tmp_path, model)
    trainer.load_state_dict(plain.state_dict())
    trainer.train(1, 1)
    assert_equal_states(ema.averaged.state_dict(), model.state_dict())


def test_the_file_of_the_average_is_a_checkpoint_of_the_model(tmp_path):
    metadata = {"class_names": ["a", "b"]}
    trainer, ema = ema_training(batches(2), tmp_path, metadata=metadata)
    trainer.train(0, 2)
    saved = torch.load(tmp_path / "model_final_ema.pth", weights_only=True)
    assert saved["metadata"] == metadata
    saved = saved["model"]
    assert_equal_states(saved, ema.averaged.state_dict())
    Net().load_state_dict(saved)


def test_the_averaged_model_is_in_evaluation_mode(tmp_path):
    trainer, ema = ema_training(batches(1), tmp_path)
    trainer.train(0, 1)
    assert not ema.averaged.training
    assert not any(p.requires_grad for p in ema.averaged.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_reported(tmp_path, decay):
    with pytest.raises(ValueError, match=rf"train.ema.decay must be in \[0, 1\), got {decay}"):
        EMAHook(Net(), str(tmp_path), decay=decay)
