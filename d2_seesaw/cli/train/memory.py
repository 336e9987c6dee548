"""Memory of this process, of its loading processes and of the machine."""

import contextlib
import multiprocessing
import os
import resource
import sys
from pathlib import Path

import torch

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def peak_memory(device: torch.device) -> int:
    """Return the largest number of bytes this process has used so far.

    It is the resident memory, or on a GPU what torch has reserved there.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if (peak := _field("/proc/self/status", "VmHWM")) is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can use, those that it uses included; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    available = _field("/proc/meminfo", "MemAvailable")
    own = _field("/proc/self/status", "VmRSS") or 0
    if available is None:
        return 0
    for limit, used in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            left = int(Path(limit).read_text()) - int(Path(used).read_text())
            available = min(available, max(left, 0))
    return available + own


def memory_of_children() -> int:
    """Return the bytes that the loading processes use and do not share; 0 if unknown."""
    total = 0
    for child in multiprocessing.active_children():
        rollup = f"/proc/{child.pid}/smaps_rollup"
        total += (_field(rollup, "Private_Clean") or 0) + (_field(rollup, "Private_Dirty") or 0)
    return total


def free_disk(folder: str | os.PathLike[str]) -> int:
    """Return the bytes that can be written to the file system of a folder."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _field(path: str, name: str) -> int | None:
    """Return a size of a file of the kernel in bytes; None if the file does not have it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None
