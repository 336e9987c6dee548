"""Claims that every loss for RoIs has to meet; see ``all_losses.py``.

Shapes: R sampled RoIs, C = 4 classes, 4 is background.
"""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from d2_seesaw import losses
from d2_seesaw.losses import ClassificationLoss
from tests.losses.all_losses import ROI_LOSSES, C
from tests.support.operators import OperatorLog

exact = partial(assert_close, rtol=0, atol=0)
every_loss = pytest.mark.parametrize("new_loss", ROI_LOSSES.values(), ids=ROI_LOSSES.keys())
half_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])

LABELS = [0, 4, 2, 0, 4, 1, 4, 4, 3, 0, 0, 4, 2, 4]


def batch(loss: nn.Module, labels=LABELS, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Return float64 logits and labels."""
    labels = torch.tensor(labels, dtype=torch.int64)
    return scale * torch.randn(len(labels), loss.num_logits, dtype=torch.float64), labels


def total(loss: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack(list(loss(logits, labels).values())).sum()


def value_and_gradient(loss: nn.Module, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = total(loss, logits, labels)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def state(loss: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(loss.state_dict())


# --- the protocol ---


def test_every_exported_loss_for_rois_is_tested():
    exported = (kind for kind in map(vars(losses).get, losses.__all__) if isinstance(kind, type))
    modules = {k for k in exported if issubclass(k, nn.Module) and ".dense." not in k.__module__}
    assert {type(new_loss(C)) for new_loss in ROI_LOSSES.values()} == modules


@every_loss
def test_follows_the_protocol(new_loss):
    loss = new_loss(C)
    assert isinstance(loss, ClassificationLoss)
    values = loss(*batch(loss))
    assert all(name.startswith("loss_") and value.dim() == 0 for name, value in values.items())
    assert f"num_classes={C}" in repr(loss)


@pytest.mark.parametrize("missing", ["num_classes", "num_logits", "scores"])
def test_a_module_that_lacks_a_member_does_not_follow_the_protocol(missing):
    module = nn.Module()
    module.num_classes, module.num_logits, module.scores = 4, 5, torch.softmax
    assert isinstance(module, ClassificationLoss)
    delattr(module, missing)
    assert not isinstance(module, ClassificationLoss)


@every_loss
def test_rejects_other_numbers_of_logits_and_labels(new_loss):
    loss = new_loss(C)
    before, L = state(loss), loss.num_logits
    for logits, labels, message in (
        ((2, L + 1), [0, 1], rf"logits must have shape \(R, {L}\), 4 classes.*got \(2, {L + 1}\)"),
        ((2, L), [0, 1, 2], rf"labels must have shape \(2,\) .*\(2, {L}\), got \(3,\)"),
        ((2, L), [0, 5], r"labels must be in \[-1, 4\] \(4 classes.*, got 5"),
        ((2, L), [-2, 5], r"labels must be in \[-1, 4\] .*-1 is ignored\), got -2"),
        ((2, L), [True, False], r"labels must be integers, got torch\.bool"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(torch.zeros(logits), torch.tensor(labels))
    exact(state(loss), before)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        new_loss(0)


# --- scores ---


@every_loss
def test_scores_are_numbers_from_0_to_1_for_each_class_and_background(new_loss):
    loss = new_loss(C)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        scores = loss.scores((60 * torch.randn(8, loss.num_logits)).to(dtype))
        assert scores.shape == (8, C + 1)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert ((scores >= 0) & (scores <= 1)).all()  # and none of them is nan
    assert loss.scores(torch.zeros(0, loss.num_logits)).shape == (0, C + 1)


@every_loss
def test_logits_that_minimize_the_loss_have_the_highest_score_for_the_label(new_loss):
    loss = new_loss(C)
    labels = torch.arange(C + 1).repeat(2)
    logits = torch.zeros(len(labels), loss.num_logits, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=20.0)
    for _ in range(150):
        optimizer.zero_grad()
        total(loss, logits, labels).backward()
        optimizer.step()
    scores = loss.scores(logits.detach())
    assert (scores[:, :C].argmax(dim=1) == labels)[labels < C].all()
    assert scores[labels < C].gather(1, labels[labels < C, None]).min() > 0.8
    assert scores[labels == C, :C].max() < 0.2


# --- direction and scale ---


@every_loss
def test_the_loss_falls_as_the_logit_of_the_true_class_rises(new_loss):
    for label in range(C):
        loss = new_loss(C).eval()  # the state stays the same
        logits, labels = batch(loss, [label])
        values = []
        for _ in range(6):
            values.append(total(loss, logits, labels).item())
            logits[0, label] += 1.5
        assert all(later < earlier for earlier, later in pairwise(values))


@every_loss
def test_loss_weight_scales_every_loss(new_loss):
    loss = new_loss(C).eval()
    logits, labels = batch(loss)
    expected = {name: 0.25 * value for name, value in loss(logits, labels).items()}
    loss.loss_weight = 0.25
    assert_close(loss(logits, labels), expected)


# --- limits ---


@every_loss
@pytest.mark.parametrize("labels", [[], [-1, -1, -1]], ids=["no RoIs", "all ignored"])
def test_batches_without_valid_labels_give_zero_loss_and_gradients(new_loss, labels):
    loss = new_loss(C)
    before = state(loss)
    classifier = nn.Linear(3, loss.num_logits)
    values = loss(classifier(torch.randn(len(labels), 3)), torch.tensor(labels).long())
    for value in values.values():
        exact(value.detach(), torch.tensor(0.0))
        value.backward(retain_graph=True)
    exact(
        [p.grad for p in classifier.parameters()],
        [torch.zeros_like(p) for p in classifier.parameters()],
    )
    exact(state(loss), before)


@every_loss
@pytest.mark.parametrize("labels", [[4, 4, 4], [2], [4], [1, -1]], ids=str)
def test_batches_of_few_labels_have_a_finite_loss_and_a_gradient(new_loss, labels):
    loss = new_loss(C)
    value, gradient = value_and_gradient(loss, *batch(loss, labels))
    assert 0 < value < 100
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [label >= 0 for label in labels]


@every_loss
def test_ignored_rois_have_no_effect(new_loss):
    with_ignored, without = new_loss(C), new_loss(C)
    logits, labels = batch(with_ignored)
    labels[[0, 3, 4, 9, 13]] = -1
    kept = labels >= 0
    for _ in range(2):
        value, gradient = value_and_gradient(with_ignored, logits, labels)
        expected, of_kept = value_and_gradient(without, logits[kept], labels[kept])
        assert_close(value, expected, rtol=0, atol=1e-14)
        assert_close(gradient[kept], of_kept, rtol=0, atol=1e-14)
        exact(gradient[~kept], torch.zeros_like(gradient[~kept]))
    assert_close(state(with_ignored), state(without), rtol=0, atol=1e-13)  # counts are exact


@every_loss
def test_a_single_class_can_be_trained(new_loss):
    loss = new_loss(1)
    logits, labels = batch(loss, [0, 1, 0, -1])
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value > 0
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True, True, True, False]
    assert loss.scores(logits).shape == (4, 2)


# --- hard regimes ---


@every_loss
def test_logits_of_1e4_have_finite_losses_and_gradients(new_loss):
    loss = new_loss(C)
    for scale in (1e4, -1e4):
        logits = scale * torch.ones(5, loss.num_logits)
        logits[:, ::2] *= -1
        value, gradient = value_and_gradient(loss, logits, torch.arange(5))
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert loss.scores(logits).isfinite().all()


@every_loss
def test_counts_of_1e9_have_finite_losses_and_gradients(new_loss):
    loss = new_loss(C)
    logits, labels = batch(loss, scale=60.0)
    loss(logits, labels)
    for buffer in loss.buffers():
        buffer.view(-1)[::2] = 10**9
    value, gradient = value_and_gradient(loss, logits.float(), labels)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
@half_dtypes
def test_half_precision_logits_give_the_float32_losses(new_loss, dtype):
    half, single = new_loss(C), new_loss(C)
    logits, labels = batch(half, scale=20.0)
    logits = logits.to(dtype)
    exact(half(logits, labels), single(logits.float(), labels))
    exact(half.scores(logits), single.scores(logits.float()))


@every_loss
@half_dtypes
def test_autocast_changes_neither_losses_nor_gradients_nor_scores(new_loss, dtype):
    plain, under_autocast = new_loss(C), new_loss(C)
    logits, labels = batch(plain)
    logits = logits.float()
    expected = *value_and_gradient(plain, logits, labels), plain.scores(logits)
    with torch.autocast("cpu", dtype):
        found = *value_and_gradient(under_autocast, logits, labels), under_autocast.scores(logits)
    exact(found, expected)
    exact(state(under_autocast), state(plain))


@every_loss
def test_float64_logits_give_float64_losses_to_full_precision(new_loss):
    # Four RoIs of three copies each: float32 cannot divide by 12 without rounding.
    loss, repeated = new_loss(C).eval(), new_loss(C).eval()
    logits, labels = batch(loss, [0, 1, 4])
    expected = total(loss, logits, labels)
    value = total(repeated, logits.repeat(11, 1), labels.repeat(11))
    assert value.dtype == torch.float64
    assert_close(value, expected, rtol=1e-14, atol=0)


# --- state ---


@every_loss
def test_state_changes_only_in_training_steps(new_loss):
    loss = new_loss(C)
    logits, labels = batch(loss)
    total(loss.eval(), logits, labels)
    loss.train()
    exact(state(loss), state(new_loss(C)))
    with torch.no_grad():
        total(loss, logits, labels)
    loss.scores(logits)
    exact(state(loss), state(new_loss(C)))
    copied = copy.deepcopy(loss)
    total(copied, logits.requires_grad_(), labels).backward()
    exact(state(loss), state(new_loss(C)))


@every_loss
def test_inputs_are_not_modified(new_loss):
    loss = new_loss(C)
    logits, labels = batch(loss)
    copies = logits.clone(), labels.clone()
    value_and_gradient(loss, logits, labels)
    loss.scores(logits)
    exact((logits, labels), copies)


@every_loss
@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, copy.deepcopy])
def test_state_survives_conversions(new_loss, convert):
    loss = new_loss(C)
    value_and_gradient(loss, *batch(loss))
    before = state(loss)
    exact(state(convert(loss)), before)
    assert all(b.dtype in (torch.int64, torch.float64) for b in loss.buffers())


@every_loss
def test_a_resumed_training_has_the_same_losses_and_state(new_loss):
    def steps(loss: nn.Module, first: int, last: int) -> list[Tensor]:
        found = []
        for step in range(first, last):
            torch.manual_seed(step)  # as the trainer seeds each step
            logits, labels = batch(loss)
            found += value_and_gradient(loss, logits, labels.roll(step))
        return found

    uninterrupted, stopped, resumed = new_loss(C), new_loss(C), new_loss(C)
    expected = steps(uninterrupted, 0, 6)
    steps(stopped, 0, 3)
    resumed.load_state_dict(stopped.state_dict())
    exact(steps(resumed, 3, 6), expected[-6:])
    exact(state(resumed), state(uninterrupted))


# --- cost ---


@every_loss
@pytest.mark.parametrize("num_classes", [3, 1203])
def test_host_reads_do_not_depend_on_the_number_of_classes(new_loss, num_classes):
    loss = new_loss(num_classes)
    logits = torch.randn(64, loss.num_logits)
    labels = torch.randint(-1, num_classes + 1, (64,))
    loss(logits, labels)  # may read the counts of the training split
    with OperatorLog() as log:
        loss(logits, labels)
    # Each of these synchronizes with a GPU: reading the range of the labels (two numbers here)
    # and counting the foreground RoIs.
    assert log.calls["aten._local_scalar_dense"] + log.calls["aten.nonzero"] <= 3


@every_loss
def test_memory_does_not_grow_with_the_square_of_the_number_of_classes(new_loss):
    loss = new_loss(30_000)
    logits = torch.randn(4, loss.num_logits, requires_grad=True)
    with OperatorLog() as log:
        total(loss, logits, torch.tensor([0, 7, 29_999, 30_000])).backward()
    assert log.largest <= 4 * logits.nbytes  # 2 MB; a C x C matrix takes 3.6 GB
