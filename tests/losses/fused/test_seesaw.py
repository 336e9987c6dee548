"""Tests of the closed-form gradient of Seesaw Loss, in PyTorch and as a Triton kernel.

The oracles are autograd through the literal equations, with the weights as constants, and the
paper's equations one class at a time. Triton kernels run in Triton's interpreter.

Shapes: P samples, C classes.
"""

import importlib
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d2_seesaw.losses import SeesawLoss, seesaw_cross_entropy
from tests.reference import seesaw as reference
from tests.support.operators import SavedForBackward

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
KERNEL_CASES = Path(__file__).parent / "seesaw_kernel_cases.py"
EXPONENTS = [(0.8, 2.0), (0.8, 0.0), (0.0, 2.0), (0.0, 0.0), (2.5, 3.5)]
every_exponents = pytest.mark.parametrize(("p", "q"), EXPONENTS)


def batch(size: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return logits (P, C), labels and long-tailed counts."""
    logits = (4 * torch.randn(size, classes)).to(dtype)
    counts = (1e6 * torch.rand(classes) ** 6).long()
    return logits, torch.randint(classes, (size,)), counts


def through_the_equation(
    logits: Tensor, labels: Tensor, counts: Tensor, p: float, q: float, eps: float = 1e-2
) -> Tensor:
    """Compute equation 4 to 8 in linear space; autograd differentiates it."""
    floored = counts.clamp(min=1).to(logits.dtype)
    mitigation = (floored / floored[labels].unsqueeze(1)).clamp(max=1) ** p
    sigma = logits.detach().softmax(dim=1)
    true_sigma = sigma.gather(1, labels.unsqueeze(1)).clamp(min=eps)
    weights = mitigation * (sigma / true_sigma).clamp(min=1) ** q
    weights = weights.scatter(1, labels.unsqueeze(1), 1)
    ratios = (logits - logits.gather(1, labels.unsqueeze(1))).exp()
    return (weights * ratios).sum(dim=1).log()


def value_and_gradient(
    loss: Callable[[Tensor], Tensor], logits: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the losses of the samples, and the gradient of their weighted sum."""
    leaf = logits.clone().requires_grad_()
    losses = loss(leaf)
    return losses.detach(), torch.autograd.grad((losses * weights).sum(), leaf)[0]


# --- the closed form ---


@every_exponents
@pytest.mark.parametrize(("size", "classes"), [(40, 7), (9, 1203), (3, 1), (0, 5)])
def test_loss_and_gradient_are_those_of_autograd_through_the_equation(size, classes, p, q):
    logits, labels, counts = batch(size, classes)
    weights = torch.randn(size, dtype=torch.float64)
    found = value_and_gradient(
        lambda z: seesaw_cross_entropy(z, labels, counts, p=p, q=q), logits, weights
    )
    expected = value_and_gradient(
        lambda z: through_the_equation(z, labels, counts, p, q), logits, weights
    )
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_exponents
def test_float32_is_as_exact_as_autograd_through_the_shifted_logits(p, q):
    logits, labels, counts = batch(64, 1203, torch.float32)
    exact = value_and_gradient(
        lambda z: through_the_equation(z, labels, counts, p, q), logits.double(), torch.ones(64)
    )
    found = value_and_gradient(
        lambda z: seesaw_cross_entropy(z, labels, counts, p=p, q=q), logits, torch.ones(64)
    )
    assert_close(found[0].double(), exact[0], rtol=1e-6, atol=1e-6)
    assert_close(found[1].double(), exact[1], rtol=0, atol=1e-6)


def test_a_probability_that_underflows_keeps_its_loss():
    logits = torch.tensor([[300.0, 0.0, -300.0]])
    counts = torch.tensor([1, 1, 1])
    for label, expected in ((0, 0.0), (1, 300 + 2 * math.log(100)), (2, 600 + 2 * math.log(100))):
        loss = seesaw_cross_entropy(logits, torch.tensor([label]), counts)
        assert_close(loss, torch.tensor([expected]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_finite_give_a_gradient_that_is_not(wrong):
    # So that a gradient scaler notices them and skips the step.
    logits, labels, counts = batch(3, 5, torch.float32)
    logits[1, 4] = wrong
    losses, gradient = value_and_gradient(
        lambda z: seesaw_cross_entropy(z, labels, counts), logits, torch.ones(3)
    )
    assert losses.isfinite().tolist() == [True, False, True]
    assert not gradient[1].isfinite().any()
    assert gradient[::2].isfinite().all()


def test_excluded_classes_get_no_gradient():
    logits, labels, counts = batch(20, 6)
    logits[:, 3] = -torch.inf
    labels[labels == 3] = 2
    found = value_and_gradient(
        lambda z: seesaw_cross_entropy(z, labels, counts), logits, torch.ones(20)
    )
    rest = [0, 1, 2, 4, 5]
    expected = reference.seesaw(logits[:, rest], labels - (labels > 3).long(), counts[rest], 0.8, 2)
    assert_close(found[0], expected[0])
    assert_close(found[1][:, rest], expected[1])
    assert not found[1][:, 3].any()


def test_backward_may_run_again_and_changes_nothing():
    logits, labels, counts = batch(8, 5)
    logits.requires_grad_()
    loss = seesaw_cross_entropy(logits, labels, counts).sum()
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: seesaw_cross_entropy(z, y, torch.ones(z.shape[1])).sum(),
        lambda z, y: sum(SeesawLoss(5, objectness=False)(z, y).values()),
    ],
    ids=["function", "module"],
)
def test_a_second_derivative_is_refused(loss):
    logits, labels, _ = batch(8, 6)
    logits.requires_grad_()
    with pytest.raises(RuntimeError, match=r"Seesaw Loss can be differentiated once.*create_graph"):
        torch.autograd.grad(loss(logits, labels), logits, create_graph=True)


def test_one_tensor_like_the_logits_is_kept_and_none_without_gradients():
    logits, labels, counts = batch(64, 300, torch.float32)
    with SavedForBackward() as saved:
        seesaw_cross_entropy(logits.requires_grad_(), labels, counts)
    assert logits.nbytes <= saved.nbytes() <= logits.nbytes + labels.nbytes
    with SavedForBackward() as saved:
        seesaw_cross_entropy(logits.detach(), labels, counts)
    assert saved.nbytes() == 0


def test_at_most_two_tensors_like_the_logits_exist_at_a_time():
    logits, labels, counts = batch(64, 3000, torch.float32)
    leaf = logits.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        seesaw_cross_entropy(leaf, labels, counts).sum().backward()
    size = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            size += event.nbytes()
            peak = max(peak, size)
    assert peak <= 2.05 * logits.nbytes


# --- the Triton kernel ---


@needs_triton
def test_the_kernel_meets_its_claims_in_tritons_interpreter():
    # In a process of its own: the interpreter is chosen when Triton is imported, and it leaves
    # changes in Triton that break the compilation of other kernels.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(KERNEL_CASES)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("reason", ["on the CPU", "without Triton", "images", "float64"])
def test_pytorch_computes_what_the_kernel_cannot(reason, monkeypatch):
    logits, labels, counts = batch(6, 8, torch.float32)
    if reason != "on the CPU":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    if reason == "without Triton":
        find = importlib.util.find_spec
        missing = lambda name, *rest: None if name == "triton" else find(name, *rest)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", missing)
    if reason == "images":
        logits, labels = logits.view(2, 8, 3), labels.view(2, 3)
    if reason == "float64":
        logits = logits.double()
    expected = seesaw_cross_entropy(logits, labels, counts)
    found = seesaw_cross_entropy(logits, labels, counts, use_triton=True)
    assert_close(found, expected, rtol=0, atol=0)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("block", "dtype"), [(2048, "fp32"), (16384, "bf16"), (16384, "fp16")])
def test_the_kernel_compiles_for_a_gpu_without_one(block, dtype):
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = importlib.import_module("d2_seesaw.losses.fused.seesaw_kernel")
    pointers = {"logits": dtype, "labels": "i64", "counts": "i64"}
    pointers |= {"losses": "fp32", "gradient": "fp32"}
    signature = {name: f"*{kind}" for name, kind in pointers.items()}
    signature |= {"row_stride": "i32", "C": "i32", "p": "fp32", "q": "fp32", "log_eps": "fp32"}
    constants = {"BLOCK": block, "IN_ONE_BLOCK": block == 2048, "WITH_GRADIENT": True}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel._seesaw, signature, constexprs=constants)
    compiled = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert ".entry _seesaw" in compiled.asm["ptx"]
