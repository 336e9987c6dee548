"""Losses inside of checkpointed regions: the same values, gradients and counts as without them."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from d2_seesaw.losses import (
    SeesawCrossEntropyLoss,
    SeesawLoss,
    _first_pass,
)
from tests.losses.all_losses import LOSSES, C

exact = partial(assert_close, rtol=0, atol=0)
every_loss = pytest.mark.parametrize("new_loss", LOSSES.values(), ids=LOSSES.keys())

KINDS = ["seesaw", "sampled groups", "dense seesaw in chunks", "sampled", "running recall"]

Region = Callable[..., Tensor]
reentrant = partial(checkpoint, use_reentrant=True)
frugal = partial(checkpoint, use_reentrant=False)


def nested(outer: Callable, inner: Callable) -> Callable:
    return lambda region, *args: outer(lambda *x: inner(region, *x), *args)


def save_some():
    saved = (torch.ops.aten.addmm.default, torch.ops.aten.div.Tensor)
    return create_selective_checkpoint_contexts(
        lambda _, op, *args, **options: (
            CheckpointPolicy.MUST_SAVE if op in saved else CheckpointPolicy.PREFER_RECOMPUTE
        )
    )


WRAPPERS: dict[str, Callable] = {
    "reentrant": reentrant,
    "not reentrant": frugal,
    "recomputed to its end": partial(frugal, early_stop=False),
    "not reentrant in itself": nested(frugal, frugal),
    "reentrant in itself": nested(reentrant, reentrant),
    "reentrant in not reentrant": nested(frugal, reentrant),
    "not reentrant in reentrant": nested(reentrant, frugal),
    "three levels": nested(frugal, nested(reentrant, frugal)),
    "other random numbers": partial(frugal, preserve_rng_state=False),
    "selective": partial(frugal, context_fn=save_some),
}


class Cascade(nn.Module):
    """Three classifiers with one loss. The value of the loss is needed for the gradient."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        width = getattr(loss, "num_logits", C)
        self.classifiers = nn.ModuleList(nn.Linear(3, width) for _ in range(3))
        self.scale = nn.Parameter(torch.zeros(3))
        self.loss = loss
        self.values: list[Tensor] = []

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum of the stages' losses, for labels that differ by stage."""
        total = features.new_zeros(())
        for stage, classifier in enumerate(self.classifiers):
            losses = self.loss(classifier(features), (labels + stage * (labels > 1)) % C)
            value = sum(losses.values()) if isinstance(losses, dict) else losses
            self.values.append(value.detach().clone())
            total = total + value.square() * self.scale[stage].exp()
        return total


def batches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    """Return two micro-batches of features (N, 3) and labels (N,)."""
    generator = torch.Generator().manual_seed(3)
    features = [torch.randn(n, 3, generator=generator, dtype=dtype) for n in (12, 9)]
    labels = [torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 3, 0, 0, 1]), torch.tensor([3, 3, 2] * 3)]
    return [(x.requires_grad_(), y) for x, y in zip(features, labels, strict=True)]


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def total(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


def train(model: Cascade, wrap: Callable | None, autocast: bool = False) -> list[Tensor]:
    """Run two steps of two micro-batches; return losses, gradients and statistics.

    The backward passes of a step run after both forward passes, and count nothing themselves.
    """
    found = []
    for step in range(2):
        torch.manual_seed(step)
        inputs = batches()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = [wrap(model, *batch) if wrap else model(*batch) for batch in inputs]
        counted = [buffer.clone() for buffer in model.buffers()]
        torch.rand(5)  # other random numbers than in the forward pass
        for loss in losses:
            loss.backward()
        exact(list(model.buffers()), counted)
        found += [*losses, *(gradient(x) for x, _ in inputs), *counted]
    return [*found, *map(gradient, model.parameters())]


def pair(loss: nn.Module) -> tuple[Cascade, Cascade]:
    model = Cascade(loss)
    return model, copy.deepcopy(model)


@pytest.mark.parametrize("new_loss", [LOSSES[name] for name in KINDS], ids=KINDS)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_losses_gradients_and_counts_match_those_without_checkpointing(new_loss, wrap):
    plain, ours = pair(new_loss())
    exact(train(ours, wrap), train(plain, None))
    first_passes = 2 * 2 * 3
    assert len(ours.values) > first_passes  # there was a recomputation
    # Each value of a recomputation is one of its micro-batch's.
    known = {value.item() for value in plain.values}
    assert {value.item() for value in ours.values} == known


@every_loss
@pytest.mark.parametrize("wrap", [reentrant, frugal])
@pytest.mark.parametrize("autocast", [False, True])
def test_every_loss_matches_with_and_without_autocast(new_loss, wrap, autocast):
    plain, ours = pair(new_loss())
    exact(train(ours, wrap, autocast), train(plain, None, autocast))


@pytest.mark.parametrize("wrap", [reentrant, frugal, nested(frugal, frugal)])
def test_a_graph_that_is_kept_is_recomputed_with_the_same_counts(wrap):
    model = Cascade(SeesawLoss(C))
    features, labels = batches()[0]
    total = wrap(model, features, labels)
    gradients = []
    for _ in range(2):
        features.grad = None
        total.backward(retain_graph=True)
        gradients.append(features.grad.clone())
        model(*batches()[1])  # changes the counts
    exact(gradients[0], gradients[1])


def test_a_recomputation_outside_of_a_backward_pass_counts_nothing():
    model = Cascade(SeesawLoss(C))
    total = frugal(lambda x, y: model(x, y).exp(), *batches()[0])
    counts = model.loss.class_counts.clone()
    exact(total.grad_fn._saved_result, total.detach())
    exact(model.loss.class_counts, counts)


@pytest.mark.parametrize("wrap", [reentrant, frugal])
def test_the_mode_of_the_first_pass_counts(wrap):
    plain, ours = pair(SeesawLoss(C))
    for model, apply in ((plain, None), (ours, wrap)):
        training = apply(model, *batches()[0]) if apply else model(*batches()[0])
        model.eval()
        evaluated = apply(model, *batches()[1]) if apply else model(*batches()[1])
        training.backward()
        model.train()
        evaluated.backward()
    exact([p.grad for p in ours.parameters()], [p.grad for p in plain.parameters()])
    exact(ours.loss.class_counts, plain.loss.class_counts)


@pytest.mark.parametrize("wrap", [reentrant, frugal, nested(reentrant, reentrant)])
def test_validation_inside_of_a_checkpointed_region_counts_nothing(wrap):
    model = Cascade(SeesawLoss(C))
    with torch.no_grad():
        wrap(model, *batches()[0])
    assert not model.loss.class_counts.any()


def test_regions_in_sequence_count_once():
    loss = SeesawLoss(C)

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + sum(loss(x, torch.tensor([0, 1, 4])).values())

    x = torch.randn(3, C + 2, requires_grad=True)
    stages = nn.Sequential(*(Counting() for _ in range(4)))
    expected = stages(x).sum()
    (gradient,) = torch.autograd.grad(expected, x)
    loss.class_counts.zero_()
    total = checkpoint_sequential(stages, 2, x, use_reentrant=False).sum()
    exact(torch.autograd.grad(total, x)[0], gradient)
    assert loss.class_counts.tolist() == [4, 4, 0, 0, 4]


class ForeignCheckpoint(torch.autograd.Function):
    """Reentrant checkpointing as in other libraries."""

    @staticmethod
    def forward(ctx, run, x):
        ctx.run = run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, *grad_outputs):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            ctx.run(x).backward(*grad_outputs)
        return None, x.grad


@pytest.mark.parametrize("kind", [SeesawLoss, SeesawCrossEntropyLoss])
def test_an_unknown_kind_of_checkpointing_is_refused(kind):
    loss = kind(C)
    x = torch.randn(3, getattr(loss, "num_logits", C), requires_grad=True)

    def run(x: Tensor) -> Tensor:
        losses = loss(x, torch.tensor([0, 1, 3]))
        return total(losses.values()) if isinstance(losses, dict) else losses

    with pytest.raises(RuntimeError, match=f"{kind.__name__} was called in a backward pass.*Call"):
        ForeignCheckpoint.apply(run, x).backward()
    assert not loss.class_counts.any()


def test_a_call_that_the_first_pass_did_not_make_is_refused():
    loss, passes = SeesawLoss(C), []

    def region(x: Tensor, labels: Tensor) -> Tensor:
        passes.append(1)
        calls = [loss(x, labels) for _ in passes]
        return total(value.square() for losses in calls for value in losses.values())

    with pytest.raises(RuntimeError, match="its first pass is not known"):
        reentrant(
            region, torch.randn(3, C + 2, requires_grad=True), torch.tensor([0, 1, 4])
        ).backward()


@pytest.mark.parametrize("wrap", [reentrant, frugal])
def test_results_are_freed_with_the_graph(wrap, monkeypatch):
    kept = weakref.WeakSet()

    class Results(_first_pass._Results):
        def __init__(self) -> None:
            super().__init__()
            kept.add(self)

    monkeypatch.setattr(_first_pass, "_Results", Results)
    total = wrap(Cascade(SeesawLoss(C)), *batches()[0])
    assert len(kept) == 1
    del total
    gc.collect()
    assert not kept


@pytest.mark.parametrize("wrap", [reentrant, frugal])
def test_chunks_of_pixels_recompute_their_region_once(wrap):
    model = Cascade(SeesawCrossEntropyLoss(C, chunk_size=2))
    wrap(model, *batches()[0]).backward()
    assert len(model.values) == 2 * 3
