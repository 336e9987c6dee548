"""Checks of what a checkpoint file contains, before it reaches a model."""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

CLASS_COUNTS = "class_counts"
"""End of the names of the buffers in which losses count classes."""

_SHOWN = 3
_CHUNK = 1 << 22
_ZIP_SIGNATURE = b"PK\x03\x04"


def check_checksums(path: str | os.PathLike[str]) -> None:
    """Refuse a file of ``torch.save`` whose bytes have changed, because PyTorch does not notice it.

    Files without checksums, and files that are not zip archives, pass.

    Raises:
        ValueError: a record does not match its checksum, or the end of the file is missing.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(4) == _ZIP_SIGNATURE:
                raise ValueError("it is truncated: the end of the file is missing")
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if not record.CRC:  # torch.serialization.set_crc32_options(False)
                continue
            try:
                with archive.open(record) as file:
                    while file.read(_CHUNK):
                        pass
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                raise ValueError(f"it is damaged: {error}") from error


def check_contents(weights: Any) -> None:
    """Refuse a file that is not a state dict, or whose values cannot be right.

    Raises:
        ValueError: not a dictionary of tensors; values that are not finite or are complex; class
            counts that are negative or not whole. The message names the tensors.
    """
    if not isinstance(weights, Mapping) or not weights:
        given = "an empty one" if isinstance(weights, Mapping) else f"a {type(weights).__name__}"
        raise ValueError(f"expected a dictionary of tensors, got {given}")
    faults = [
        f"{name}: {fault}" for name, value in weights.items() if (fault := _fault(name, value))
    ]
    if faults:
        more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ValueError(f"its values cannot be used: {', '.join(faults[:_SHOWN])}{more}")


def _fault(name: Any, value: Any) -> str:
    if not isinstance(name, str):
        return "its name is not text"
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        value = torch.as_tensor(value)
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__} instead of a tensor"
    if value.layout is not torch.strided or value.device.type == "meta":
        return f"not a dense tensor with values, but {value.layout} on {value.device.type}"
    if value.is_complex():
        return "complex numbers"
    if value.is_floating_point() and not (finite := torch.isfinite(value)).all():
        return f"{int((~finite).sum())} of {value.numel()} values are NaN or infinite"
    return _fault_of_counts(value) if name.rpartition(".")[2] == CLASS_COUNTS else ""


def _fault_of_counts(counts: Tensor) -> str:
    if (counts < 0).any():
        return f"a negative class count, {counts.min().item():g}"
    if counts.is_floating_point() and (counts != counts.round()).any():
        return "class counts that are not whole numbers"
    return ""
