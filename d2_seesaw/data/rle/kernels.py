"""Choice of the compiled functions for encoded masks, which need numba.

numba takes a second to load and some seconds to compile once in an installation. Many masks are
needed for that to pay.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType

LEAST_MASKS = 100_000
"""Masks from which loading the compiled functions pays."""

_NAME = "d2_seesaw.data.rle.compiled"
_unusable: list[str] = []

logger = logging.getLogger(__name__)


def compiled_functions(masks: int = 0) -> ModuleType | None:
    """Return the module of compiled functions, which give the same results in less time.

    Args:
        masks: Number of masks that are to be encoded or compared.

    Returns:
        None without a numba that works, or if there are too few masks to load it for them.
    """
    if (loaded := sys.modules.get(_NAME)) is not None:
        return loaded
    if masks < LEAST_MASKS or _unusable:
        return None
    try:
        return importlib.import_module(_NAME)
    except ModuleNotFoundError as error:
        _unusable.append(str(error))
    except (
        Exception
    ) as error:  # numba refuses versions of NumPy, and places that it cannot cache in
        _unusable.append(str(error))
        logger.warning(f"Masks are encoded and compared without numba, which fails: {error}")
    return None
