from pathlib import Path

import numpy as np
import pytest

from d2_seesaw.utils import memory
from tests.support.memory import MEGABYTE


def resident():
    """Return the memory of the process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def test_memory_that_was_freed_between_arrays_in_use_is_returned():
    if memory._malloc_trim() is None:
        pytest.skip("this system does not have glibc")
    freed = np.ones(30 * MEGABYTE, np.uint8)
    del freed  # from now on, glibc keeps smaller ones
    parts = [np.ones(MEGABYTE, np.uint8) for _ in range(200)]
    kept = parts[::20]
    del parts
    before = resident()
    memory.release_free_memory()
    assert before - resident() > 100 * MEGABYTE
    assert all(part.all() for part in kept)


def test_other_systems_are_left_alone(monkeypatch):
    memory._malloc_trim.cache_clear()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory.release_free_memory()
    assert memory._malloc_trim() is None
    memory._malloc_trim.cache_clear()
