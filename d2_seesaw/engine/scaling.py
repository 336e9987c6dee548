"""Linear scaling of a recipe from the number of GPUs it is written for to the number there is.

Goyal et al., "Accurate, Large Minibatch SGD", arXiv 1706.02677: with k times the batch, take k
times the learning rate and a k-th of the steps.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

_TIMES_FACTOR = ("dataloader.train.total_batch_size", "optimizer.lr")
_BY_FACTOR = (
    "train.max_iter",
    "train.eval_period",
    "train.checkpointer.period",
    "lr_multiplier.warmup_iters",
)


def scale_to_world_size(cfg: DictConfig, world_size: int) -> list[tuple[str, Any, Any]]:
    """Scale batch, learning rate and lengths in place by ``world_size / reference_world_size``.

    The number of epochs stays, and so does the batch of each GPU.

    Args:
        cfg: with ``train.reference_world_size``.
        world_size: ranks that will train.

    Returns:
        ``(key, before, after)`` of each changed value; empty where nothing changes.

    Raises:
        ValueError: a batch that the factor does not leave whole, or no reference to scale from.
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
    """The changes as a table of the values before and after."""
    if not changes:
        return f"The recipe is written for {reference} GPUs, as many as there are: nothing scaled"
    width = max(len(key) for key, _, _ in changes)
    rows = [f"  {key:<{width}}  {before:>12g} -> {after:g}" for key, before, after in changes]
    return "\n".join([f"Scaled the recipe from {reference} to {world_size} GPUs:", *rows])
