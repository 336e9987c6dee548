"""Claims of the Triton kernel of Seesaw Loss: it agrees with PyTorch, which has tests of its own.

Not collected by default. ``test_seesaw.py`` runs this file in Triton's interpreter, and
``tests/gpu/test_losses.py`` on a GPU.

Shapes: P samples, C classes.
"""

import importlib
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d2_seesaw.losses import FederatedSeesawLoss, SeesawLoss, seesaw_cross_entropy
from d2_seesaw.losses.seesaw import seesaw_losses
from tests.losses.fused.test_seesaw import batch, every_exponents, value_and_gradient
from tests.reference import seesaw as reference

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


def kernel_agrees(logits: Tensor, labels: Tensor, counts: Tensor, **options: float) -> None:
    """Compare the kernel with PyTorch: float32 losses, gradients in the dtype of the logits."""
    weights = torch.randn(len(logits))
    expected, found = (
        value_and_gradient(
            lambda z, use=use: seesaw_cross_entropy(z, labels, counts, use_triton=use, **options),
            logits,
            weights,
        )
        for use in (False, True)
    )
    assert_close(found[0], expected[0], rtol=1e-6, atol=2e-6)
    assert found[1].dtype == logits.dtype
    half = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(logits.dtype, 0)
    assert_close(found[1], expected[1], rtol=half, atol=5e-6)


@every_exponents
def test_the_kernel_agrees_with_pytorch(p, q):
    kernel_agrees(*batch(7, 130, torch.float32), p=p, q=q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [1, 2, 1203, 16384, 16385, 40_000])
def test_the_kernel_agrees_for_any_number_of_classes_and_dtype(classes, dtype):
    kernel_agrees(*batch(2, classes, dtype))


def test_the_kernel_matches_the_papers_equations_at_extreme_logits_and_counts():
    logits = 120 * torch.rand(40, 5) - 60
    labels, counts = torch.arange(40) % 5, torch.tensor([2**60, 1, 0, 10**9, 7])
    expected, gradients = reference.seesaw(logits, labels, counts, 0.8, 2.0)
    found = value_and_gradient(
        lambda z: seesaw_cross_entropy(z, labels, counts, use_triton=True), logits, torch.ones(40)
    )
    assert_close(found[0], expected.float(), rtol=1e-6, atol=1e-5)
    assert_close(found[1], gradients.float(), rtol=1e-4, atol=1e-5)


def test_the_kernel_ignores_samples_and_accepts_views_and_empty_batches():
    logits, labels, counts = batch(9, 12, torch.float32)
    labels[::3] = -1
    for view in (logits, logits[:, :10], logits.t().contiguous().t(), logits[:0]):
        size, classes = view.shape
        args = (labels[:size].clamp(max=classes - 1), counts[:classes], 0.8, 2.0, 1e-2)
        expected, found = (
            value_and_gradient(
                lambda z, use=use, args=args: seesaw_losses(z, *args, use_triton=use),
                view,
                torch.ones(size),
            )
            for use in (False, True)
        )
        assert_close(found, expected, rtol=1e-6, atol=2e-6)
        assert not found[0][::3].any()
        assert not found[1][::3].any()


@pytest.mark.parametrize("kind", [SeesawLoss, FederatedSeesawLoss])
@pytest.mark.parametrize("objectness", [True, False])
def test_modules_give_the_same_with_and_without_the_kernel(kind, objectness, monkeypatch):
    launches = []
    kernel = importlib.import_module("d2_seesaw.losses.fused.seesaw_kernel")
    compute = kernel.losses_and_gradient

    def note(*args, **options):
        launches.append(args)
        return compute(*args, **options)

    monkeypatch.setattr(kernel, "losses_and_gradient", note)
    labels = torch.tensor([0, 4, 2, -1, 4, 1, 3])
    found = []
    for use in (False, True):
        loss = kind(4, objectness=objectness, use_triton=use)
        torch.manual_seed(1)
        logits = torch.randn(7, loss.num_logits, requires_grad=True)
        extra = {"verified_classes": torch.rand(7, 4) > 0.5} if kind is not SeesawLoss else {}
        losses = loss(logits, labels, **extra)
        found.append((losses, torch.autograd.grad(sum(losses.values()), logits)[0]))
    assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert len(launches) == 1


def test_a_second_derivative_of_the_kernel_is_refused():
    logits, labels, counts = batch(4, 6, torch.float32)
    loss = seesaw_cross_entropy(logits.requires_grad_(), labels, counts, use_triton=True).sum()
    with pytest.raises(RuntimeError, match="Seesaw Loss can be differentiated once"):
        torch.autograd.grad(loss, logits, create_graph=True)
