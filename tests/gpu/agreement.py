"""Comparison of the results of a module on a device and on the CPU.

``D2_SEESAW_TEST_DEVICE=cpu`` runs the tests of this folder without a GPU, to check the tests
themselves. The CPU is then compared with itself, with images in another memory layout.
"""

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TEST_DEVICE = os.environ.get("D2_SEESAW_TEST_DEVICE", "cuda")

FLOAT32 = 1e-4
"""Largest difference in float32, relative to the largest value of the same tensor."""

AUTOCAST = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference between mixed precision and float32: float16 has 11 bits, bfloat16 8."""

Outcome = dict[str, Tensor]


def assert_agrees(
    function: Callable[..., Any],
    *inputs: Tensor,
    device: torch.device,
    tolerance: float = FLOAT32,
    autocast: torch.dtype | None = None,
) -> None:
    """Check outputs, gradients and buffers on ``device`` against float32 on the CPU.

    Args:
        function: a module, or a function without parameters. Modules are copied.
        inputs: the arguments, on the CPU. Floating-point tensors get gradients.
        device: the device to compare with the CPU.
        tolerance: largest difference relative to the largest value of a tensor. Integers and
            booleans must be equal.
        autocast: dtype of autocast on ``device``; None turns it off.
    """
    expected = outcome(function, inputs, torch.device("cpu"))
    assert_close_to(outcome(function, inputs, device, autocast), expected, tolerance)


def outcome(
    function: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> Outcome:
    """Run a function forward and backward; return all results on the CPU."""
    module = copy.deepcopy(function).to(device) if isinstance(function, nn.Module) else function
    leaves = [on_device(tensor, device) for tensor in inputs]
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        found = as_dict(module(*leaves))
    # Random weights, because the plain sum of a softmax, for example, has no gradient.
    generator = torch.Generator().manual_seed(0)
    total: Any = 0
    for output in found.values():
        weight = torch.rand(output.shape, generator=generator) + 0.5
        total = total + (output.float() * weight.to(device)).sum()
    total.backward()
    for i, leaf in enumerate(leaves):
        if leaf.requires_grad:
            found[f"gradient of input {i}"] = leaf.grad
    if isinstance(module, nn.Module):
        found |= {f"gradient of {name}": p.grad for name, p in module.named_parameters()}
        found |= dict(module.named_buffers())
    return {name: value.detach().cpu() for name, value in found.items()}


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to ``device`` as a leaf that gets a gradient if it can have one."""
    copied = tensor.detach().clone().to(device)
    if TEST_DEVICE == "cpu" and copied.dim() == 4:
        copied = copied.contiguous(memory_format=torch.channels_last)
    return copied.requires_grad_(copied.is_floating_point())


def as_dict(outputs: Any) -> Outcome:
    """Name the outputs of a function."""
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    return dict(outputs)


def assert_close_to(actual: Outcome, expected: Outcome, tolerance: float) -> None:
    """Check all tensors by name; every difference of floats is relative to the largest value."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        if not value.is_floating_point():
            assert torch.equal(actual[name], value), name
            continue
        # float64 represents the values of all other dtypes exactly.
        value, other = value.double(), actual[name].double()
        largest = value.abs().max().item() if value.numel() else 0.0
        difference = (other - value).abs().max().item() if value.numel() else 0.0
        assert difference <= tolerance * largest, (
            f"{name} differs by {difference:.3g}, its largest value is {largest:.3g}"
        )
