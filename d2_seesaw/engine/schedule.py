"""Learning-rate multipliers, and linear scaling of a recipe to the number of GPUs.

The warm-up is given in steps, independent of the length of training. Scaling follows Goyal et al.,
"Accurate, Large Minibatch SGD", arXiv 1706.02677: k times the batch, k times the learning rate, 1 /
k of the steps.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    PolynomialDecayParamScheduler,
)
from omegaconf import DictConfig, OmegaConf

_TIMES_FACTOR = ("dataloader.train.total_batch_size", "optimizer.lr")
_BY_FACTOR = (
    "train.max_iter",
    "train.eval_period",
    "train.checkpointer.period",
    "lr_multiplier.warmup_iters",
)


def multi_step_with_warmup(
    *,
    milestones: Sequence[float],
    max_iter: int | None,
    gamma: float = 0.1,
    warmup_iters: int = 500,
    warmup_factor: float = 1e-3,
) -> ParamScheduler:
    """Return a linear warm-up, then a factor of ``gamma`` at each milestone except the last.

    Args:
        milestones: increasing, in any unit, such as epochs ``[16, 22, 24]``; the last is the end.
        max_iter: number of training steps.
        gamma: factor on the learning rate at a milestone.
        warmup_iters: number of warm-up steps.
        warmup_factor: multiplier at the first step.

    Raises:
        ValueError: no ``max_iter``, or milestones that do not increase.
    """
    milestones = list(milestones)
    if sorted(set(milestones)) != milestones:
        raise ValueError(f"milestones must increase, got {milestones}")
    decay = MultiStepParamScheduler(
        values=[gamma**i for i in range(len(milestones))],
        milestones=milestones,  # pyright: ignore[reportArgumentType] only their ratios count
    )
    return _with_warmup(decay, max_iter, warmup_iters, warmup_factor)


def cosine_with_warmup(
    *, max_iter: int | None, warmup_iters: int = 500, warmup_factor: float = 1e-3
) -> ParamScheduler:
    """Return a linear warm-up, then half a cosine down to 0 at the end.

    Args:
        max_iter: number of training steps.
        warmup_iters: number of warm-up steps.
        warmup_factor: multiplier at the first step.

    Raises:
        ValueError: no ``max_iter``.
    """
    return _with_warmup(CosineParamScheduler(1.0, 0.0), max_iter, warmup_iters, warmup_factor)


def polynomial_with_warmup(
    *,
    max_iter: int | None,
    power: float = 0.9,
    warmup_iters: int = 500,
    warmup_factor: float = 1e-3,
) -> ParamScheduler:
    """Return a linear warm-up, then ``(1 - progress) ** power`` down to 0, as in DeepLab.

    Args:
        max_iter: number of training steps.
        power: 1 is a straight line.
        warmup_iters: number of warm-up steps.
        warmup_factor: multiplier at the first step.

    Raises:
        ValueError: no ``max_iter``.
    """
    decay = PolynomialDecayParamScheduler(base_value=1.0, power=power)
    return _with_warmup(decay, max_iter, warmup_iters, warmup_factor)


def _with_warmup(
    scheduler: ParamScheduler, max_iter: int | None, warmup_iters: int, warmup_factor: float
) -> ParamScheduler:
    if not max_iter or max_iter < 1:
        raise ValueError(f"max_iter must be at least 1 to schedule a learning rate, got {max_iter}")
    return WarmupParamScheduler(
        scheduler, warmup_factor=warmup_factor, warmup_length=min(1.0, warmup_iters / max_iter)
    )


def scale_to_world_size(cfg: DictConfig, world_size: int) -> list[tuple[str, Any, Any]]:
    """Scale batch, learning rate and lengths in place by ``world_size / reference_world_size``.

    The number of epochs and the batch of each GPU do not change.

    Args:
        cfg: a config with ``train.reference_world_size``.
        world_size: number of ranks.

    Returns:
        ``(key, before, after)`` of each changed value; empty if nothing changes.

    Raises:
        ValueError: a scaled batch that is not a whole number, or an invalid reference.
    """
    reference = cfg.train.reference_world_size
    if reference < 1:
        raise ValueError(f"train.reference_world_size must be at least 1, got {reference}")
    if reference == world_size:
        return []
    changes = []
    for key in (*_TIMES_FACTOR, *_BY_FACTOR):
        before = OmegaConf.select(cfg, key)
        if not before:  # not set, or 0 for "never"
            continue
        if key in _TIMES_FACTOR:
            after = before * world_size / reference
        else:
            after = max(1, round(before * reference / world_size))
        if key == "dataloader.train.total_batch_size":
            after = _whole_batch(before, world_size, reference)
        OmegaConf.update(cfg, key, after)
        changes.append((key, before, after))
    return changes


def _whole_batch(batch: int, world_size: int, reference: int) -> int:
    if batch * world_size % reference:
        raise ValueError(
            f"a total batch of {batch} for {reference} GPUs cannot be scaled to {world_size}: "
            f"{batch * world_size / reference:g} is not a whole number"
        )
    return batch * world_size // reference


def format_changes(changes: list[tuple[str, Any, Any]], reference: int, world_size: int) -> str:
    """Return the changes as a table of the values before and after."""
    if not changes:
        return f"The recipe is written for {reference} GPUs, the number in use: nothing scaled"
    width = max(len(key) for key, _, _ in changes)
    rows = [f"  {key:<{width}}  {before:>12g} -> {after:g}" for key, before, after in changes]
    return "\n".join([f"Scaled the recipe from {reference} to {world_size} GPUs:", *rows])
