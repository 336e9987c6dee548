"""Memory of the process that is free, but not yet returned to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def release_free_memory() -> None:
    """Return free memory to the system, where glibc manages the memory; elsewhere do nothing.

    glibc keeps freed arrays below 32 MB for arrays of that size, and takes new memory for larger
    ones. Between the parts of a large computation this can be a fifth of its memory.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
