"""Memory that a call takes beyond what the process has, as Linux counts it."""

import mmap
from pathlib import Path

import numpy as np
import pytest

MEGABYTE = 2**20


def added_at_peak(call):
    """What ``call`` returns, and bytes of its peak. Arrays of more than 32 MB are told apart."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmHWM")
    except (OSError, StopIteration):
        pytest.skip("this system does not tell the peak of a part of a process")
    result = call()
    return result, _status("VmHWM") - before


def mapped_ones(size):
    """uint8 in memory that goes back to the system at once; what malloc gave may stay."""
    ones = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    ones[:] = 1
    return ones


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
