"""Fused steps of torch's optimizers: one kernel for all weights, with a complete state.

A fused step reads the state of all weights as flat memory. So each tensor of the state must exist,
and have the layout of its weight.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer


def is_fused(optimizer: Optimizer) -> bool:
    """Return whether an optimizer was built with ``fused=True``."""
    return any(group.get("fused") for group in optimizer.param_groups)


def state_for(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state with the setting ``fused`` of the optimizer that will load it.

    torch would take the setting from the state, although the optimizer has been built for another.
    After loading, call :func:`complete_fused_state`.

    Args:
        optimizer: as it was built.
        state: as ``state_dict`` of an optimizer returns it; not changed.
    """
    groups = state["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        return state  # torch's error says so
    built = [_way_of(group) for group in optimizer.param_groups]
    groups = [group | way for group, way in zip(groups, built, strict=True)]
    return {**state, "param_groups": groups}


def _way_of(group: dict[str, Any]) -> dict[str, Any]:
    """Return how the step of a group is computed: at most one of these may be set."""
    names = ("fused", "foreach") if group.get("fused") else ("fused",)
    return {name: group[name] for name in names if name in group}


@torch.no_grad()
def complete_fused_state(optimizer: Optimizer) -> None:
    """Give a fused optimizer the state that its next step needs. Others are left as they are.

    torch's fused SGD makes the momentum in its first step. It is then left uninitialized if that
    step is skipped because gradients in float16 overflow, and the step fails if some weights have a
    momentum and others do not, because they had no gradient before. So the momentum starts at zero,
    which gives the same first step.

    Raises:
        ValueError: SGD with ``dampening``, whose first step would differ.
    """
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        has_momentum = isinstance(optimizer, SGD) and group["momentum"] != 0
        if has_momentum and group["dampening"] != 0:
            raise ValueError(
                f"optimizer.fused=True needs optimizer.dampening=0, got {group['dampening']}"
            )
        for weight in group["params"]:
            if has_momentum and optimizer.state[weight].get("momentum_buffer") is None:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            for name, value in optimizer.state.get(weight, {}).items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    optimizer.state[weight][name] = _like(value, weight)


def _like(value: Tensor, weight: Tensor) -> Tensor:
    """Return a tensor in the memory format of a weight."""
    if value.stride() == weight.stride():
        return value
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)
