"""Output of a training: config and log in its folder, and errors of a full or missing disk."""

import atexit
import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from detectron2.config import LazyConfig
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf

from d2_seesaw.checkpoint.resuming import training_checkpoints
from d2_seesaw.cli import RunError
from d2_seesaw.data.saved_datasets import save_datasets
from d2_seesaw.engine.monitoring.ending import EndOfTraining
from d2_seesaw.utils.files import WriteError, is_write_error, write_text

LOGGERS = ("fvcore", "detectron2", "d2_seesaw")


def log_to_file(path: str) -> None:
    """Log to a ``.txt`` file, on other ranks to a file of their own beside it.

    A line that cannot be written, such as on a full disk, is lost. The first such line is reported
    on stderr in one line.
    """
    for name in LOGGERS:
        log = setup_logger(
            path, distributed_rank=comm.get_rank(), name=name, configure_stdout=False
        )
        for handler in log.handlers:
            _report_once(handler)


def _report_once(handler: logging.Handler) -> None:
    """Replace the traceback that a handler prints for each line that it cannot write."""
    default = handler.handleError
    stream: Any = getattr(handler, "stream", None)

    def handle(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is None or not is_write_error(error):
            default(record)
        elif stream not in _REPORTED:
            _REPORTED.append(stream)
            name = getattr(stream, "name", "the log")
            with contextlib.suppress(OSError):
                sys.stderr.write(
                    f"d2-seesaw train: {name} cannot be written: {getattr(error, 'strerror', '')}; "
                    "lines of the log are lost\n"
                )

    vars(handler)["handleError"] = handle
    if stream is not None and stream not in (sys.stdout, sys.stderr):
        atexit.register(_close_quietly, stream)  # called before Detectron2's, which would raise


_REPORTED: list[Any] = []  # streams, which several loggers share


def _close_quietly(stream: Any) -> None:
    with contextlib.suppress(OSError):
        stream.close()


def save_config(cfg: DictConfig, path: str | os.PathLike[str]) -> None:
    """Write a config as YAML, which appears at ``path`` when it is complete, and its datasets.

    What registers them is written beside it, see :mod:`d2_seesaw.data.saved_datasets`.

    Raises:
        WriteError: the file cannot be written.
    """
    # Detectron2 writes to a path only. If that fails, it logs a traceback and pickles the config.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "config.yaml")
        LazyConfig.save(cfg, str(copy))
        write_text(path, copy.read_text())
    save_datasets(OmegaConf.to_container(cfg, resolve=False), path)


class WritersHook(hooks.PeriodicWriter):
    """Detectron2's hook of writers, which closes all of them, also if one cannot write."""

    def after_train(self) -> None:
        """Write the last values and close all writers."""
        # If training has failed already, that error says more, and writers may fail because of it.
        has_failed = not isinstance(sys.exc_info()[1], EndOfTraining | None)
        errors: list[Exception] = []
        for writer in self._writers:
            for call in (writer.write, writer.close):
                try:
                    call()
                except Exception as error:
                    errors.append(error)
        if errors and not has_failed:
            raise errors[0]


@contextlib.contextmanager
def disk_errors_in_one_line(folder: str) -> Iterator[None]:
    """Turn an error of writing files into one line with the path and the cause.

    Detectron2's training loop and TensorBoard's thread then print no traceback of it.

    Args:
        folder: named in the message if the error does not name a file.

    Raises:
        RunError: files could not be written.
    """
    of_loop = logging.getLogger("detectron2.engine.train_loop")
    printed = threading.excepthook

    def quiet(record: logging.LogRecord) -> bool:
        return not (record.exc_info and _is_of_disk(record.exc_info[1], folder))

    def quiet_thread(given: threading.ExceptHookArgs) -> None:
        if not _is_of_disk(given.exc_value, folder):
            printed(given)

    of_loop.addFilter(quiet)
    threading.excepthook = quiet_thread
    try:
        yield
    except OSError as error:
        first = _first_of_disk(error, folder)
        if first is None:
            raise
        raise RunError(_ending(first, folder)) from error
    finally:
        of_loop.removeFilter(quiet)
        threading.excepthook = printed


def _is_of_disk(error: BaseException | None, folder: str) -> bool:
    """Return whether files cannot be written. TensorBoard opens its file again for each write."""
    return isinstance(error, OSError) and (is_write_error(error) or _is_gone(folder))


def _is_gone(folder: str) -> bool:
    return "://" not in folder and not os.path.isdir(folder)


def _ending(error: OSError, folder: str) -> str:
    if _is_gone(folder):
        return f"the output folder {folder} was removed or is not accessible any more"
    text = str(error)
    if not isinstance(error, WriteError):
        text = f"{error.filename or f'a file in {folder}'} cannot be written: {error.strerror}"
    with contextlib.suppress(OSError):
        if "://" not in folder and training_checkpoints(folder):
            text += ". --resume continues from the newest checkpoint"
    return text


def _first_of_disk(error: BaseException | None, folder: str) -> OSError | None:
    """Return the error that others followed from, of a chain of errors."""
    first: OSError | None = None
    while error is not None:
        # A WriteError says more than its cause.
        if _is_of_disk(error, folder) and not (first is not None and first.__cause__ is error):
            first = cast("OSError", error)
        error = error.__context__
    return first
