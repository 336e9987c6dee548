"""Checks of what a checkpoint file contains, before it reaches a model."""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

CLASS_COUNTS = "class_counts"
"""End of the names of the buffers in which losses count classes."""

NORMALIZED = "normalized_layers"
"""Key of the metadata: names of the layers of classes whose weights are normalized."""

_SHOWN = 3
_CHUNK = 1 << 22
_REPEATED = 1 << 28  # bytes that a tensor may take which repeats its values
_MAX_DEPTH = 30
_PLAIN = (str, bytes, int, float, np.ndarray, np.generic, torch.dtype, torch.device)
_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
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
        _check_sizes(archive.infolist(), os.path.getsize(path))
        for record in archive.infolist():
            if not record.CRC:  # torch.serialization.set_crc32_options(False)
                continue
            try:
                with archive.open(record) as file:
                    while file.read(_CHUNK):
                        pass
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                raise ValueError(f"it is damaged: {error}") from error


def _check_sizes(records: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse an archive that would need more memory than its size says."""
    packed = [r.filename for r in records if r.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"its record {packed[0]} is compressed, which torch.save never does")
    total = sum(record.file_size for record in records)
    if total > size:
        raise ValueError(f"its records take {total} bytes, more than the {size} of the file")


def check_contents(weights: Any) -> None:
    """Refuse a file that is not a state dict, or whose values cannot be right.

    Raises:
        ValueError: not a dictionary of tensors; values that are not finite or are complex; class
            counts that are negative or not whole. The message names the tensors.
    """
    if not isinstance(weights, Mapping) or not weights:
        given = "an empty one" if isinstance(weights, Mapping) else f"a {type(weights).__name__}"
        raise ValueError(f"expected a dictionary of tensors, got {given}")
    if isinstance(weights.get("state_dict"), Mapping):
        raise ValueError(
            "its weights are in 'state_dict', as in a checkpoint of mmdet: convert it first, "
            "`d2-seesaw convert MMDET.pth OURS.pth`"
        )
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
    if fault := _fault_of_form(value):
        return fault
    if value.is_floating_point() and not (finite := torch.isfinite(value)).all():
        return f"{int((~finite).sum())} of {value.numel()} values are NaN or infinite"
    return _fault_of_counts(value) if name.rpartition(".")[2] == CLASS_COUNTS else ""


def _fault_of_form(value: Tensor) -> str:
    if value.layout is not torch.strided or value.device.type == "meta":
        return f"not a dense tensor with values, but {value.layout} on {value.device.type}"
    if value.is_complex():
        return "complex numbers"
    if value.dtype not in _DTYPES:
        return f"numbers of type {value.dtype}, which models do not have"
    stored = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > max(stored, _REPEATED):
        return f"{value.numel()} values, but only {stored} bytes of data"
    return ""


def _fault_of_counts(counts: Tensor) -> str:
    if (counts < 0).any():
        return f"a negative class count, {counts.min().item():g}"
    if counts.is_floating_point() and (counts != counts.round()).any():
        return "class counts that are not whole numbers"
    return ""


def check_states(states: Mapping[Any, Any]) -> None:
    """Refuse wrong values beside the weights, such as in the state of the optimizer.

    Raises:
        ValueError: objects other than containers, tensors and plain values, tensors with values
            that :func:`check_contents` refuses, or an iteration that is not a count. The message
            has the path of the entry.
    """
    for path, value in _entries(states, "", 0, set()):
        if isinstance(value, Tensor):
            fault = _fault(path, value)
        elif path.rpartition(".")[2] == "iteration" and not _is_whole(value, -1):
            fault = f"expected a whole number, got {value!r:.40}"
        else:
            fault = "" if _is_plain(value) else f"a {type(value).__name__}"
        if fault:
            raise ValueError(f"its values cannot be used: {path}: {fault}")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, _PLAIN)


def _entries(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield path and value of everything in nested containers, of shared ones once."""
    if isinstance(value, Mapping):
        children: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        children = enumerate(value)
    else:
        yield path, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if depth == _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
    for key, child in children:
        yield from _entries(child, f"{path}.{key}" if path else str(key), depth + 1, seen)


def check_metadata(metadata: Any) -> None:
    """Refuse class metadata of another form than :func:`class_metadata` writes.

    Raises:
        ValueError: an entry of another type, or of another length than ``class_names``.
    """
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must be a dictionary, got a {type(metadata).__name__}")
    layers = metadata.get(NORMALIZED, [])
    if not isinstance(layers, list | tuple) or not all(isinstance(n, str) for n in layers):
        raise ValueError(f"metadata.{NORMALIZED} must be a list of text")
    names = metadata.get("class_names")
    if names is not None and metadata.get("category_ids") is None:
        raise ValueError("metadata has class_names without their category_ids")
    for key, (expected, fits) in _METADATA.items():
        value = metadata.get(key)
        if value is None:
            continue
        if not isinstance(value, list | tuple) or not all(map(fits, value)):
            raise ValueError(f"metadata.{key} must be a list of {expected}")
        if names is None or len(value) != len(names):
            count = "no" if names is None else len(names)
            raise ValueError(f"metadata.{key} has {len(value)} entries for {count} class names")


def _is_color(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(_is_whole(channel, 0) and channel < 256 for channel in value)
    )


_METADATA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "class_names": ("text", lambda value: isinstance(value, str)),
    "category_ids": ("whole numbers or text", lambda value: isinstance(value, int | str)),
    "class_colors": ("three numbers from 0 to 255 each", _is_color),
}
