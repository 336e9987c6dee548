"""Reading the .pth files that mmdet writes, without running what is in them.

A .pth file is a pickle, and a pickle is a program. PyTorch's restricted reader builds tensors and
plain containers and refuses everything else. Files of mmdet 3.x hold more than that: the history of
the losses, in objects of mmengine and NumPy. Nobody needs it here, so the names of exactly those
objects are given to an inert stand-in; nothing of theirs is imported or called.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_HARMLESS = (
    "builtins.getattr",  # how the history refers to its own methods
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",  # NumPy 1
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",  # NumPy 2
    "numpy._core.multiarray.scalar",
)


class _StandIn:
    """Takes the place of whatever the file names, and does nothing."""

    def __new__(cls, *args: object) -> "_StandIn":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


@dataclass(frozen=True)
class MmdetFile:
    """What we take from an mmdet checkpoint.

    Attributes:
        state: the model's weights under mmdet's names.
        config: the text of the config it was trained with; empty if the file has none.
    """

    state: dict[str, Tensor]
    config: str


def read_mmdet_file(path: str | Path, *, trust: bool = False) -> MmdetFile:
    """Read a checkpoint of mmdet 2.x or 3.x.

    Args:
        path: of the .pth file.
        trust: unpickle whatever is in the file, which may run any code; only for files whose origin
            you trust. Such files may need mmengine or mmcv installed.

    Raises:
        ValueError: the file holds other objects than tensors and those known to be harmless, or no
            weights.
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        loaded = _load(path, trust)
    except pickle.UnpicklingError as error:
        raise ValueError(_why_refused(path, error)) from error
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: holds objects of {error.name!r}; install it first") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not state or not _are_tensors(state):
        raise ValueError(f"{path}: expected a checkpoint of mmdet, with weights in 'state_dict'")
    return MmdetFile(dict(state), _config_text(loaded.get("meta")))


def _load(path: str | Path, trust: bool) -> Any:
    if trust:
        return torch.load(path, map_location="cpu", weights_only=False)
    with torch.serialization.safe_globals([(_StandIn, name) for name in _HARMLESS]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _why_refused(path: str | Path, error: Exception) -> str:
    names = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
    return (
        f"{path}: holds other objects than tensors{': ' if names else ''}{', '.join(names)}. To "
        "read them is to run code from the file, so it was not done. If you trust whoever made "
        "the file, allow it explicitly: --trust on the command line, trust=True in Python"
    )


def _are_tensors(state: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _config_text(meta: Any) -> str:
    """``meta.config`` of mmdet 2.x or ``meta.cfg`` of 3.x."""
    if not isinstance(meta, dict):
        return ""
    text = meta.get("cfg", meta.get("config", ""))
    return text if isinstance(text, str) else ""
