"""Learning-rate multiplier whose warm-up is given in steps, whatever the length of training."""

from collections.abc import Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    PolynomialDecayParamScheduler,
)


def multi_step_with_warmup(
    *,
    milestones: Sequence[float],
    max_iter: int | None,
    gamma: float = 0.1,
    warmup_iters: int = 500,
    warmup_factor: float = 1e-3,
) -> ParamScheduler:
    """Linear warm-up, then a factor of ``gamma`` at each milestone but the last, which is the end.

    Args:
        milestones: in any unit, increasing, such as epochs ``[16, 22, 24]``.
        max_iter: steps of the whole training.
        gamma: factor on the learning rate at a milestone.
        warmup_iters: steps of the warm-up.
        warmup_factor: multiplier at its first step.

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
    """Linear warm-up, then half a cosine down to 0 at the end.

    Args:
        max_iter: steps of the whole training.
        warmup_iters: steps of the warm-up.
        warmup_factor: multiplier at its first step.

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
    """Linear warm-up, then ``(1 - progress) ** power`` down to 0 at the end, as DeepLab trains.

    Args:
        max_iter: steps of the whole training.
        power: 1 is a straight line.
        warmup_iters: steps of the warm-up.
        warmup_factor: multiplier at its first step.

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
