"""Reader of ``.pkl`` weights that runs nothing in them.

Detectron2's model zoo consists of pickles, and unpickling can call any function. This reader builds
numeric arrays and plain containers and refuses everything else. Names of both NumPy 1 and NumPy 2
are known. Strings that Python 2 wrote are read as latin-1, as in Detectron2.
"""

import io
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

_NUMBERS = re.compile(r"[<>|=]?[biuf]\d{1,2}")  # NumPy's codes of the dtypes of weights
_ORDERS = "<>|="
_PLAIN = str | bytes | int | float | bool | None
MAX_DEPTH = 50


class RefusedPickleError(ValueError):
    """Error about a pickle with something other than arrays and plain containers."""


class _Dtype:
    """Stand-in for a dtype. NumPy's own would accept fields outside of their elements."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in tuple(_ORDERS):
            self.order = state[1]

    def dtype(self) -> np.dtype:
        code = self.code.decode("latin1") if isinstance(self.code, bytes) else self.code
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise RefusedPickleError(f"it contains an array of type {code!r}, expected numbers")
        order: Any = self.order
        return np.dtype(code).newbyteorder(order)


class _Array:
    """Stand-in for an array, which is built when its bytes have been compared with its shape."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Build an array from its bytes; a shape that does not fit them is an error."""
    if isinstance(data, str):  # bytes of Python 2
        data = data.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise RefusedPickleError("it contains an array of Python objects, expected numbers")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise RefusedPickleError(f"it contains an array of shape {shape}")
    found = dtype.dtype()
    if prod(shape) * found.itemsize != len(data):
        raise RefusedPickleError(
            f"it contains an array of shape {tuple(shape)} with {len(data)} bytes of data"
        )
    array = np.frombuffer(data, dtype=found).reshape(shape, order=order)
    return array.astype(found.newbyteorder("="))  # a copy, which can be written


def _globals() -> dict[tuple[str, str], Callable[..., Any] | type]:
    """Return what a pickle may name.

    Each file gets new functions, because a pickle can set attributes of what it names.
    """

    class Dtype(_Dtype):
        """Stand-in for ``numpy.dtype``."""

    class Array(_Array):
        """Stand-in for ``numpy.ndarray``."""

    def reconstruct(*_: Any) -> _Array:
        return Array()

    def scalar(dtype: Any, data: Any = b"") -> Any:
        return _array(data, dtype, ())[()]

    def frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
        return _array(data, dtype, shape, order)

    def encode(text: Any, encoding: Any = "latin1") -> bytes:  # bytes of protocols 0 to 2
        if not isinstance(text, str) or encoding != "latin1":
            raise RefusedPickleError(f"it contains text in the encoding {encoding!r}")
        return text.encode("latin1")

    def no_bytes() -> bytes:  # how protocols 0 to 2 write them
        return b""

    names: dict[tuple[str, str], Callable[..., Any] | type] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Dtype,
        ("_codecs", "encode"): encode,
        ("__builtin__", "bytes"): no_bytes,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = reconstruct
        names[f"{core}.multiarray", "scalar"] = scalar
        names[f"{core}.numeric", "_frombuffer"] = frombuffer
    return names


# The one in Python: the one in C allocates as much memory as the indices in a file ask for.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_PythonUnpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.known = _globals()

    def load_bytearray8(self) -> None:
        # Python's own allocates the length that the file gives, whatever follows.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch: ClassVar = {**_PythonUnpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise RefusedPickleError(
                f"it names {module}.{name}, which reading it would run; expected arrays, numbers, "
                "text and containers of these"
            )
        return self.known[module, name]

    def get_extension(self, code: int) -> None:
        raise RefusedPickleError(f"it uses the extension code {code}")


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of arrays, numbers, text, lists, tuples and dictionaries.

    Returns:
        The content. Arrays are writable and have the byte order of this machine; tuples stay
        tuples.

    Raises:
        ValueError: anything else in the file, such as a function or an array of objects, or a
            damaged file.
    """
    try:
        content = _Unpickler(Path(path).read_bytes()).load()
        return _plain(content, {}, 0)
    except (RefusedPickleError, MemoryError):
        raise
    except RecursionError as error:
        raise RefusedPickleError("it is nested too deeply") from error
    except Exception as error:  # a damaged pickle raises errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RefusedPickleError(f"it is not a pickle of arrays ({reason})") from error


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """Return a value with arrays in the place of their stand-ins."""
    if depth > MAX_DEPTH:
        raise RefusedPickleError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if isinstance(value, np.ndarray | np.generic | _PLAIN):
        return value
    if type(value) not in (dict, OrderedDict, list, tuple):
        raise RefusedPickleError(f"it contains an object of type {type(value).__name__}")
    if id(value) not in done:  # else it is shared, or part of itself
        _copy_container(value, done, depth)
    return done[id(value)]


def _copy_container(value: Any, done: dict[int, Any], depth: int) -> None:
    if type(value) is tuple:
        done[id(value)] = tuple(_plain(part, done, depth + 1) for part in value)
        return
    done[id(value)] = result = type(value)()
    if isinstance(value, list):
        result.extend(_plain(part, done, depth + 1) for part in value)
        return
    for key, part in dict.items(value):  # an attribute may hide its own method
        if not isinstance(key, str | int):
            raise RefusedPickleError(f"it contains a key of type {type(key).__name__}")
        result[key] = _plain(part, done, depth + 1)


def read_model_zoo_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a ``.pkl`` file of Detectron2's model zoo, or of Caffe2's and Detectron's.

    Returns:
        The weights as ``model``, and what Detectron2's checkpointer needs to match their names: an
        ``__author__``, and ``matching_heuristics`` for names other than the model's.

    Raises:
        ValueError: see :func:`read_pickle`, or the file is not a dictionary.
    """
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary of arrays, got a {type(content).__name__}")
    if "model" in content and "__author__" in content:
        return content
    weights = content.get("blobs", content)
    if not isinstance(weights, dict):
        raise ValueError(f"expected a dictionary of arrays, got a {type(weights).__name__}")
    weights = {name: value for name, value in weights.items() if not _unused_in_caffe2(name)}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _unused_in_caffe2(name: Any) -> bool:
    return isinstance(name, str) and (name.endswith("_momentum") or name == "weight_order")
