"""Memory and age of this process, and memory of its loading processes and of the machine."""

import contextlib
import multiprocessing
import os
import resource
import sys
import time
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


def seconds_since_start() -> float:
    """Return the age of this process in seconds, imports included; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    return 0.0


def _field(path: str, name: str) -> int | None:
    """Return a size of a file of the kernel in bytes; None if the file does not have it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None
