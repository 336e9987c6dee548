"""Weights in the safetensors format, whose files hold tensors and text but no code.

The header of a file that is written here holds the class metadata as JSON, one entry for each field
of :func:`~d2_seesaw.checkpoint.class_metadata`, the version of this layout, a checksum and, if the
model is calibrated, its ``calibration`` as JSON. Files of other programs, such as timm's backbones,
have no such entries.
"""

import json
import os
import zlib
from collections.abc import Mapping
from types import ModuleType
from typing import IO, Any

import torch
from torch import Tensor

from d2_seesaw.checkpoint.contents import NORMALIZED

SUFFIX = ".safetensors"
FORMAT_VERSION = 1
"""Version of the entries in the header."""

_VERSION, _CHECKSUM = "d2_seesaw_format", "d2_seesaw_crc32"
_CALIBRATION = "calibration"
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Return whether a path has the suffix of safetensors files."""
    return os.fspath(path).lower().endswith(SUFFIX)


def write_safetensors(
    file: IO[bytes],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    *,
    calibration: Mapping[str, Any] | None = None,
    **texts: str,
) -> None:
    """Write weights bit by bit as they are, each tensor on its own and contiguous.

    Args:
        file: an open binary file.
        weights: state dict. Tensors that share memory are written once for each name.
        metadata: as :func:`~d2_seesaw.checkpoint.class_metadata` returns it.
        calibration: plain values that JSON can hold.
        texts: further entries of the header.

    Raises:
        ValueError: a value that is not a dense tensor of a common dtype, an unusable name, or an
            entry of the header that is not text. The message names the key.
    """
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in weights.items():
        if fault := _fault(name, value):
            raise ValueError(f"{name!r} cannot be written to a {SUFFIX} file: {fault}")
        # safetensors refuses other layouts and shared memory.
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in memory else tensor
        memory.add(place)
    header = {"format": "pt", _VERSION: str(FORMAT_VERSION), _CHECKSUM: _checksum(tensors)}
    known = {key: value for key, value in (metadata or {}).items() if key in _EXPECTED}
    header |= {key: json.dumps(value, ensure_ascii=False) for key, value in known.items()}
    if calibration is not None:
        header[_CALIBRATION] = json.dumps(calibration)
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(
                f"{key!r} cannot be written to a {SUFFIX} file, which holds weights and text: it "
                f"is a {type(text).__name__}. Use a .pth file"
            )
        header[key] = text
    file.write(_package().torch.save(tensors, header))


def _fault(name: Any, value: Any) -> str:
    if not isinstance(name, str) or name == "__metadata__":
        return "the name must be text other than '__metadata__'"
    if not isinstance(value, Tensor):
        return f"it is a {type(value).__name__} instead of a tensor"
    if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
        return f"it is not a dense tensor with values, but {value.layout} on {value.device.type}"
    if value.dtype not in _DTYPES:
        return f"its dtype is {value.dtype}"
    return ""


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file.

    Returns:
        ``model``, the weights in the order of their names, ``metadata``, the class metadata, and
        ``calibration`` if the file has one.

    Raises:
        ValueError: a damaged or truncated file, tensors of an unusual dtype, no tensors, class
            metadata that cannot be right, or a newer version of this layout.
    """
    package = _package()
    try:
        with package.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            dtypes = {name: file.get_slice(name).get_dtype() for name in sorted(file.keys())}
            unknown = {n: d for n, d in dtypes.items() if d not in _DTYPES.values()}
            weights = {} if unknown else {name: file.get_tensor(name) for name in dtypes}
    except package.SafetensorError as error:
        raise ValueError(f"it is not a whole {SUFFIX} file: {error}") from error
    if unknown:
        name, dtype = next(iter(unknown.items()))
        raise ValueError(
            f"its tensor {name!r} has the dtype {dtype}; expected one of "
            f"{', '.join(_DTYPES.values())}"
        )
    if not weights:
        raise ValueError("it has no tensors")
    if _CHECKSUM in header and header[_CHECKSUM] != _checksum(weights):
        raise ValueError("it is damaged: its tensors do not have the checksum in its header")
    content = {"model": weights, "metadata": _class_metadata(header)}
    if _VERSION in header and _CALIBRATION in header:
        content[_CALIBRATION] = _parsed(header[_CALIBRATION])
    return content


def read_safetensors_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the class metadata of a file without its weights; empty if it has none.

    Raises:
        ValueError: as :func:`read_safetensors`.
    """
    package = _package()
    try:
        with package.safe_open(path, framework="pt") as file:
            return _class_metadata(file.metadata() or {})
    except package.SafetensorError as error:
        raise ValueError(f"it is not a whole {SUFFIX} file: {error}") from error


def _package() -> ModuleType:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a {SUFFIX} file needs the package safetensors: pip install safetensors"
        ) from error
    return safetensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    code = 0
    for name in sorted(tensors):
        code = zlib.crc32(name.encode(errors="replace"), code)
        code = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, code)
    return f"{code:08x}"


def _class_metadata(header: Mapping[str, str]) -> dict[str, Any]:
    version = header.get(_VERSION)
    if version is None:
        return {}
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"its format version is {version[:20]!r}, this d2_seesaw reads up to {FORMAT_VERSION}"
        )
    found = {key: _field(key, header[key]) for key in _EXPECTED if key in header}
    numbers = {key: len(value) for key, value in found.items() if key not in _OF_NO_CLASS}
    if len(set(numbers.values())) > 1:
        raise ValueError(f"the entries in its header are of different length: {numbers}")
    return found


def _field(key: str, text: str) -> Any:
    expected, fits = _EXPECTED[key]
    value = _parsed(text)
    if not fits(value):
        raise ValueError(f"{key} in its header must be {expected} in JSON, got {text[:60]!r}")
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_list_of(value: Any, *kinds: type) -> bool:
    return isinstance(value, list) and all(type(entry) in kinds for entry in value)


def _is_color(value: Any) -> bool:
    return _is_list_of(value, int) and len(value) == 3 and all(0 <= c <= 255 for c in value)


_EXPECTED = {
    "dataset": ("a name or a list of names", lambda v: type(v) is str or _is_list_of(v, str)),
    "class_names": ("a list of names", lambda v: _is_list_of(v, str)),
    "category_ids": ("a list of numbers or names", lambda v: _is_list_of(v, int, str)),
    "class_colors": (
        "a list of RGB colors",
        lambda v: isinstance(v, list) and all(_is_color(entry) for entry in v),
    ),
    NORMALIZED: ("a list of names", lambda v: _is_list_of(v, str)),
}
_OF_NO_CLASS = ("dataset", NORMALIZED)  # entries without one value for each class
