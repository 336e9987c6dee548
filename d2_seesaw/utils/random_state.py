"""Random generators seeded by a place in the training, not by what was drawn before.

A draw then depends on the seed of the run and on this place alone: the position of an image in the
order of the data, or the step and the rank of a model. A resumed training draws the same numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

IMAGE, STEP, EVALUATION = range(3)
"""First entry of a place: what is drawn for."""


def seed_generators(seed: int, *place: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (CPU, and the current GPU if it is in use).

    Args:
        seed: seed of the run, at least 0.
        place: numbers of at least 0. Each tuple of them gives independent numbers.
    """
    import torch

    words = np.random.SeedSequence(seed, spawn_key=place).generate_state(8)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:6])
    seed_of_torch = int(words[6]) << 32 | int(words[7])
    # torch.manual_seed takes a hundred times as long, because it records a stack trace for GPUs.
    torch.default_generator.manual_seed(seed_of_torch)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed_of_torch)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators of Python, NumPy and PyTorch (CPU) when the block ends."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
