"""Compiled losses against eager ones: values, gradients, statistics, errors, recompilations."""

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from d2_seesaw.losses import (
    EqualizationLossV2,
    InverseFrequencyLoss,
    RecallLoss,
    SeesawCrossEntropyLoss,
    SeesawLoss,
    progressive_constraint,
    recall_cross_entropy,
    seesaw_cross_entropy,
)
from tests.losses.all_losses import LOSSES as ALL_LOSSES
from tests.losses.all_losses import C

LOSSES = ALL_LOSSES | {
    "sampled": lambda: SeesawCrossEntropyLoss(C, sample_size=10**6),  # every pixel, shuffled
    "given frequency": lambda: InverseFrequencyLoss(C, class_counts=[9, 2, 5, 0], power=0.5),
}
del LOSSES["sampled groups"]  # the sample depends on the random numbers of the backend
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "seesaw": lambda x, y: seesaw_cross_entropy(x, y.clamp(max=3), torch.tensor([9, 0, 2, 1])),
    "recall": recall_cross_entropy,
    "progressive": lambda x, y: progressive_constraint(x[:, 0].sigmoid(), x[:, 1].sigmoid()),
}
# Compiling takes about a second: by default, one loss for RoIs and one for pixels.
every_loss = pytest.mark.parametrize(
    "new_loss",
    [
        pytest.param(
            new_loss,
            id=name,
            marks=[] if name in ("seesaw", "running recall") else pytest.mark.slow,
        )
        for name, new_loss in LOSSES.items()
    ],
)
BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"),
        ],
    ),
]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _empty_cache():
    torch._dynamo.reset()


def batch(loss: object, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return logits and labels of ``size`` RoIs, or of two images of that width."""
    generator = torch.Generator().manual_seed(size)
    if hasattr(loss, "num_logits"):  # for RoIs
        logits = torch.randn(size, loss.num_logits, generator=generator)
        labels = torch.randint(-1, C + 1, (size,), generator=generator)
    else:
        logits = torch.randn(2, C, 3, size, generator=generator)
        labels = torch.randint(C + 1, (2, 3, size), generator=generator)
        labels[labels == C] = 255
    return (3 * logits).to(dtype).requires_grad_(), labels


def value_and_gradient(loss: Callable, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    losses = loss(logits, labels)
    value = sum(losses.values()) if isinstance(losses, dict) else losses.sum()
    return value.detach(), torch.autograd.grad(value, logits)[0]


@every_backend
@every_loss
def test_a_single_graph_matches_eager_mode_and_asserts_the_range_of_labels(new_loss, backend):
    eager = new_loss()
    loss = copy.deepcopy(eager)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for size in (5, 9, 12, 8):
        expected = value_and_gradient(eager, *batch(eager, size))
        assert_close(value_and_gradient(compiled, *batch(loss, size)), expected, **TOLERANCE)
        assert_close(loss.state_dict(), eager.state_dict(), **TOLERANCE)
        if not isinstance(loss, RecallLoss | EqualizationLossV2):
            assert_close(loss.state_dict(), eager.state_dict(), rtol=0, atol=0)
    logits, labels = batch(loss, 8)
    for wrong in (77, -7):
        labels.flatten()[3] = wrong
        with pytest.raises(RuntimeError, match=r"labels must be in \[(-1, 4|0, 3)\] \(4 classes"):
            compiled(logits, labels)
    assert_close(loss.state_dict(), eager.state_dict(), **TOLERANCE)
    assert counter.frame_count <= 2  # for the first size, and for every other


@pytest.mark.slow
@every_backend
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_functions_compile_into_a_single_graph(function, backend):
    logits, labels = batch(None, 5)
    expected = value_and_gradient(function, logits, labels)
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    assert_close(value_and_gradient(compiled, logits, labels), expected, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@every_loss
def test_graphs_of_other_dtypes_match_eager_mode(new_loss, dtype):
    eager = new_loss()
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
    expected = value_and_gradient(eager, *batch(eager, 8, dtype))
    actual = value_and_gradient(compiled, *batch(eager, 8, dtype))
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    assert_close(actual, expected, **tolerance)


@pytest.mark.slow
@every_loss
def test_graphs_of_batches_to_ignore_and_empty_ones_give_zero(new_loss):
    loss = new_loss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for size in (8, 0):
        logits, labels = batch(loss, size)
        ignored = -1 if hasattr(loss, "num_logits") else 255
        found = value_and_gradient(compiled, logits, torch.full_like(labels, ignored))
        assert_close(found, (torch.tensor(0.0), torch.zeros_like(logits)), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_graphs_accept_labels_of_any_integer_dtype(dtype):
    loss = SeesawLoss(C)
    torch.compile(loss, fullgraph=True, backend="aot_eager")(
        torch.zeros(4, C + 2), torch.tensor([0, 3, 3, 4], dtype=dtype)
    )
    assert loss.class_counts.tolist() == [1, 0, 0, 2, 1]


@pytest.mark.slow
def test_graphs_of_validation_count_nothing():
    loss = SeesawLoss(C)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(*batch(loss, 8))
    loss.eval()
    compiled(*batch(loss, 8))
    assert not loss.class_counts.any()


@pytest.mark.slow
def test_a_sample_in_a_graph_estimates_the_loss_without_bias():
    # 18 of 24 pixels are valid, and 6 of them are drawn.
    logits, labels = batch(None, 4)
    labels.flatten()[:6], labels.flatten()[6:] = 255, torch.arange(18) % C
    expected = SeesawCrossEntropyLoss(C, q=0).eval()(logits, labels)
    loss = SeesawCrossEntropyLoss(C, q=0, sample_size=6).eval()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    drawn = torch.stack([compiled(logits, labels).detach() for _ in range(600)])
    assert drawn.std() > 0.1
    assert_close(drawn.mean(), expected.detach(), rtol=0, atol=4 * drawn.std().item() / 600**0.5)


@pytest.mark.parametrize("use_reentrant", [pytest.param(True, marks=pytest.mark.slow), False])
@every_loss
def test_a_compiled_loss_in_a_checkpointed_region_is_refused_if_it_counts(new_loss, use_reentrant):
    loss = new_loss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")

    def region(logits: Tensor, labels: Tensor) -> Tensor:
        losses = compiled(2 * logits, labels)
        return torch.stack(list(losses.values())).sum() if isinstance(losses, dict) else losses

    total = checkpoint(region, *batch(loss, 8), use_reentrant=use_reentrant)
    counts = copy.deepcopy(loss.state_dict())
    if counts:
        with pytest.raises(RuntimeError, match="A compiled loss was called in a backward pass"):
            total.backward()
    else:
        total.backward()
    assert_close(loss.state_dict(), counts, rtol=0, atol=0)
