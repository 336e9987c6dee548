"""Shipped configs, each executed once per session for all tests and processes of pytest."""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from detectron2.config import LazyConfig

from d2_seesaw.engine.config_files import config_folder

execute = LazyConfig.load


class SharedResults:
    """Results by key, kept as pickles, so that every caller gets objects of its own.

    Attributes:
        folder: folder in which processes share the pickles, or None.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._pickles: dict[str, bytes] = {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the result of ``compute()``, which is called if no process has done so.

        A result that cannot be pickled, such as one with an object of a test, is not shared.
        """
        if key not in self._pickles:
            file = self.folder and self.folder / f"{key.replace('/', '-')}.pkl"
            if file and file.exists():
                self._pickles[key] = file.read_bytes()
            else:
                result = compute()
                try:
                    self._pickles[key] = pickle.dumps(result)
                except (pickle.PicklingError, AttributeError, TypeError):
                    return result
                if file:
                    partial = file.with_suffix(f".{os.getpid()}")
                    partial.write_bytes(self._pickles[key])
                    partial.replace(file)
        return pickle.loads(self._pickles[key])


results = SharedResults()


def _load(filename: Any, keys: Any = None) -> Any:
    path, folder = Path(filename).resolve(), config_folder()
    if keys is not None or not path.is_relative_to(folder):
        return execute(filename, keys)
    return results.get(f"config {path.relative_to(folder)}", lambda: execute(filename))


@contextlib.contextmanager
def executed_once(folder: Path | None) -> Iterator[None]:
    """Execute each shipped config once. It depends on nothing that tests change.

    A load takes 0.2 to 0.8 s, a copy of its result 2 ms.

    Args:
        folder: folder for the results, if several processes share them.
    """
    results.folder = folder
    with mock.patch.object(LazyConfig, "load", staticmethod(_load)):
        yield


def executed_again() -> contextlib.AbstractContextManager[Any]:
    """Execute shipped configs at each load within the block."""
    return mock.patch.object(LazyConfig, "load", staticmethod(execute))
