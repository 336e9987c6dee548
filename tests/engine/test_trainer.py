import copy

import pytest
import torch
from torch import nn

from d2_seesaw.data.bad_images import BadImages
from d2_seesaw.engine import Trainer


class Regression(nn.Module):
    """Linear model that returns two named losses, like a detector."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.dtypes = []

    def forward(self, batch):
        x = torch.stack([image["x"] for image in batch])
        y = self.linear(x)
        self.dtypes.append(y.dtype)
        return {"loss_a": y[:, 0].float().square().mean(), "loss_b": y[:, 1].float().abs().mean()}


def images(count, first=0):
    return [{"x": torch.randn(3), "file_name": f"{first + i}.jpg"} for i in range(count)]


def trained(model, batches, steps, lr=0.1, **options):
    model = copy.deepcopy(model)
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=lr), **options)
    if trainer.grad_scaler.is_enabled():  # the default scale overflows here and skips steps
        trainer.grad_scaler.load_state_dict(trainer.grad_scaler.state_dict() | {"scale": 8.0})
    trainer.train(0, steps)
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_accumulating_halves_equals_whole_batches():
    model, batches = Regression(), [images(8) for _ in range(3)]
    halves = [half for b in batches for half in (b[:4], b[4:])]
    whole = trained(model, batches, 3)
    accumulated = trained(model, halves, 3, accumulate_steps=2)
    torch.testing.assert_close(weights(accumulated), weights(whole))
    losses = ("loss_a", "loss_b", "total_loss")
    for name in losses:
        assert accumulated.storage.history(name).latest() == pytest.approx(
            whole.storage.history(name).latest()
        )


@pytest.mark.parametrize(
    ("amp_dtype", "expected"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_mixed_precision_runs_layers_in_its_dtype_and_stays_near_float32(amp_dtype, expected):
    model, batches = Regression(), [images(8) for _ in range(5)]
    mixed = trained(model, batches, 5, amp_dtype=amp_dtype)
    assert set(mixed.model.dtypes) == {expected}
    assert mixed.model.linear.weight.dtype == torch.float32
    torch.testing.assert_close(
        weights(mixed), weights(trained(model, batches, 5)), atol=5e-3, rtol=0
    )


@pytest.mark.parametrize("amp_dtype", [None, "float16"])
def test_the_joint_norm_of_all_gradients_is_clipped(amp_dtype):
    # With float16 the gradients are unscaled before they are clipped.
    model, batch = Regression(), images(8)
    start = weights(trained(model, [], 0))
    free = weights(trained(model, [batch], 1, amp_dtype=amp_dtype)) - start
    limit = free.norm().item() * 10 * 0.5  # half the gradient norm, at a learning rate of 0.1
    clipped = trained(model, [batch], 1, amp_dtype=amp_dtype, max_norm=limit)
    torch.testing.assert_close(weights(clipped) - start, free / 2, rtol=1e-3, atol=1e-6)
    loose = trained(model, [batch], 1, amp_dtype=amp_dtype, max_norm=3 * limit)
    torch.testing.assert_close(weights(loose) - start, free, rtol=1e-3, atol=1e-6)


def test_gradient_values_are_clipped_elementwise():
    model, batch = Regression(), images(8)
    start = weights(trained(model, [], 0))
    free = weights(trained(model, [batch], 1)) - start
    clipped = weights(trained(model, [batch], 1, max_value=0.05)) - start
    torch.testing.assert_close(clipped, free.clamp(-0.005, 0.005))


@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_a_non_finite_loss_stops_before_the_weights_change(amp_dtype):
    model = Regression()
    bad = images(2, first=7)
    bad[1]["x"][0] = float("nan")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, [bad], optimizer, amp_dtype=amp_dtype)
    before = weights(trainer).clone()
    with pytest.raises(FloatingPointError, match=r"iteration 0; .*loss_a': nan.*7.jpg', '8.jpg'"):
        trainer.train(0, 1)
    assert torch.equal(weights(trainer), before)


def test_a_non_finite_gradient_stops_before_the_weights_change():
    model = Regression()
    model.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer = Trainer(model, [images(2)], torch.optim.SGD(model.parameters(), lr=0.1))
    before = weights(trainer).clone()
    with pytest.raises(FloatingPointError, match="gradients are not finite"):
        trainer.train(0, 1)
    assert torch.equal(weights(trainer), before)


def test_float16_skips_a_step_with_overflowing_gradients_and_halves_the_scale():
    model = Regression()
    model.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer = Trainer(
        model, [images(2)], torch.optim.SGD(model.parameters(), lr=0.1), amp_dtype="float16"
    )
    before, scale = weights(trainer).clone(), trainer.grad_scaler.get_scale()
    trainer.train(0, 1)
    assert torch.equal(weights(trainer), before)
    assert trainer.grad_scaler.get_scale() == scale / 2


def test_the_loss_scale_is_saved_and_resumed():
    trainer = trained(Regression(), [images(2)], 1, amp_dtype="float16")
    trainer.grad_scaler.update(new_scale=123.0)
    again = trained(Regression(), [images(2)], 1, amp_dtype="float16")
    again.load_state_dict(trainer.state_dict())
    assert again.grad_scaler.get_scale() == 123.0


def test_a_checkpoint_of_full_precision_training_starts_a_new_loss_scale():
    full = trained(Regression(), [images(2)], 1)
    assert "grad_scaler" not in full.state_dict()
    mixed = trained(Regression(), [images(2)], 1, amp_dtype="float16")
    scale = mixed.grad_scaler.get_scale()
    mixed.load_state_dict(full.state_dict())
    assert mixed.grad_scaler.get_scale() == scale


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp_dtype": "fp8"}, r"must be one of \['bfloat16', 'float16'\], got 'fp8'"),
        ({"accumulate_steps": 0}, "accumulate_steps must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_reported(options, message):
    model = Regression()
    with pytest.raises(ValueError, match=message):
        Trainer(model, [], torch.optim.SGD(model.parameters(), lr=0.1), **options)


class _Loader:
    """A loader that replaced bad images, as ``TrainLoader`` tells."""

    def __init__(self, batches):
        self.batches = batches
        self.bad_images = BadImages(limit=2)

    def __iter__(self):
        for batch in self.batches:
            self.bad_images.collect(batch)
            yield batch


def test_bad_images_are_logged_and_continue_from_the_checkpoint():
    batches = [images(2), images(2)]
    batches[1][0]["_bad_images"] = {"a.jpg": "truncated"}
    trainer = trained(Regression(), _Loader(batches), 2)
    assert trainer.storage.history("bad_images").latest() == 1
    again = trained(Regression(), _Loader([]), 0)
    again.load_state_dict(trainer.state_dict())
    assert again.bad_images.found == {"a.jpg": "truncated"}
    assert "bad_images" not in trained(Regression(), [images(2)], 1).state_dict()


@pytest.mark.parametrize(
    "fault",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_the_sizes_the_batch_and_the_keys_to_change(fault):
    def fails(_, inputs):
        raise fault

    model = Regression()
    model.linear.register_forward_pre_hook(fails)
    batch = [image | {"image": torch.zeros(3, 40, 50 + i)} for i, image in enumerate(images(2))]
    trainer = Trainer(model, [batch], torch.optim.SGD(model.parameters(), lr=0.1))
    message = r"iteration 0, with a batch of 2 images .* 40 x 50, 40 x 51\. .*mapper.augmentations"
    with pytest.raises(MemoryError, match=message) as error:
        trainer.train(0, 1)
    assert error.value.__cause__ is fault
    assert "dataloader.train.total_batch_size" in str(error.value)


def test_another_runtime_error_of_the_model_stays_as_it_is():
    model = Regression()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trained(model, [[{"x": torch.zeros(7)}]], 1)
