"""Choice of the checkpoint that a training is resumed from: the newest one that can be read."""

import logging
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor

from d2_seesaw.checkpoint.checkpointer import StrictCheckpointer, reason_of
from d2_seesaw.checkpoint.contents import check_checksums
from d2_seesaw.utils.files import digest
from d2_seesaw.utils.ranks import from_first_rank, raise_on_all_ranks

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
_OF_TRAINING = re.compile(r"model_(\d+|final|best)\.pth")


def training_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the checkpoints of a training in a local folder, also those that cannot be read.

    These are the files that a training writes, the one that ``last_checkpoint`` names, and others
    called ``model_*.pth`` that hold the state of a training. Weights alone are not among them.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    named = _named_last(Path(folder))
    return [
        Path(folder, name)
        for name in names
        if _OF_TRAINING.fullmatch(name)
        or name == named
        or (re.fullmatch(r"model_.*(?<!_ema)\.pth", name) and _holds_state(Path(folder, name)))
    ]


def _named_last(folder: Path) -> str:
    """Return the file that ``last_checkpoint`` names; empty if it does not name one."""
    try:
        name = (folder / LAST).read_text().strip()
        is_file = os.path.basename(name) == name and (folder / name).is_file()
    except (OSError, ValueError):  # unreadable, not text, or text that is not a path
        return ""
    return name if is_file and name.endswith(".pth") else ""


def _holds_state(path: Path) -> bool:
    try:
        read_iteration(path)
    except (OSError, ValueError):
        return False
    return True


def read_iteration(path: str | os.PathLike[str]) -> int:
    """Read the last iteration that a checkpoint holds; see :func:`read_entries`."""
    return read_entries(path)["iteration"]


def read_entries(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read the checkpoint of a training without checking its tensors, which stay on the disk.

    Raises:
        ValueError: the reason why it cannot be resumed.
        OSError: it cannot be opened.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size == 0:
        raise ValueError("it is empty")
    if not zipfile.is_zipfile(path):
        check_checksums(path)  # recognizes a truncated one
        raise ValueError("it is not a zip file of torch.save")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged file may raise anything
        check_checksums(path)  # says so if it is damaged
        raise ValueError(reason_of(error)) from error
    iteration = content.get("iteration") if isinstance(content, Mapping) else None
    if not isinstance(iteration, int) or "trainer" not in content:
        raise ValueError("it does not hold the state of a training")
    return content


def choose_checkpoint(checkpointer: StrictCheckpointer) -> str:
    """Return the newest checkpoint of the checkpointer's folder that can be resumed.

    The main process chooses by the iterations that the files hold, and logs each one that it skips.
    ``last_checkpoint`` only decides between equal iterations. Every rank must call this.

    Returns:
        The path; empty if the folder has no checkpoint.

    Raises:
        ValueError: there are checkpoints, but none can be resumed; or this rank sees other files
            than the main process.
        OtherRankError: another rank raised.
    """
    chosen = ("", "")
    with raise_on_all_ranks():
        if comm.is_main_process():
            path = _newest(checkpointer)
            chosen = (path, _fingerprint(path))
    path, expected = from_first_rank(chosen)
    with raise_on_all_ranks():
        _check_same(path, expected)
    return path


def _newest(checkpointer: StrictCheckpointer) -> str:
    folder = checkpointer.save_dir
    if "://" in folder:
        return checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else ""
    skipped: dict[str, str] = {}
    for path in _newest_first(folder, skipped):
        try:
            fault = _misfit(checkpointer, checkpointer.read(str(path)))
        except (OSError, ValueError) as error:
            fault = _in_one_line(error.__cause__ or error)
        if not fault:
            return str(path)
        _skip(skipped, path, fault)
    if skipped:
        files = "; ".join(f"{name} ({reason})" for name, reason in skipped.items())
        raise ValueError(
            f"{folder} has no checkpoint that can be resumed: {files}. --restart moves the earlier "
            "training aside and starts anew"
        )
    return ""


def _newest_first(folder: str, skipped: dict[str, str]) -> list[Path]:
    named = _named_last(Path(folder))
    found: list[tuple[int, bool, int, Path]] = []
    for path in training_checkpoints(folder):
        try:
            iteration = read_iteration(path)
        except (OSError, ValueError) as error:
            _skip(skipped, path, _in_one_line(error))
        else:
            rank = {"model_final.pth": 2, "model_best.pth": 0}.get(path.name, 1)
            found.append((iteration, path.name == named, rank, path))
    return [path for *_, path in sorted(found, reverse=True)]


def _skip(skipped: dict[str, str], path: Path, reason: str) -> None:
    skipped[path.name] = reason
    logger.warning("Skipped %s: %s", path, reason)


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "a link to a file that does not exist"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return reason_of(error)


def _misfit(checkpointer: StrictCheckpointer, content: Mapping[str, Any]) -> str:
    """Return why the content of a checkpoint does not fit the objects to load it into, or ""."""
    expected = checkpointer.model.state_dict()
    if not checkpointer.allow_partial and (fault := _unlike(content["model"], expected)):
        return fault
    optimizer = getattr(checkpointer.checkpointables.get("trainer"), "optimizer", None)
    if optimizer is None:
        return ""
    try:
        saved = [len(group["params"]) for group in content["trainer"]["optimizer"]["param_groups"]]
    except (KeyError, TypeError):
        return "it does not hold the state of the optimizer"
    own = [len(group["params"]) for group in optimizer.param_groups]
    if saved != own:
        return "its optimizer has other groups of parameters"
    scheduled = {"initial_lr"}
    names = [
        set(content["trainer"]["optimizer"]["param_groups"][0]),
        set(optimizer.param_groups[0]),
    ]
    same = names[0] - scheduled == names[1] - scheduled
    return "" if same else "its optimizer is of another kind"


def _unlike(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    wrong = [f"{name} is missing" for name in expected if name not in weights]
    wrong += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    more = f", and {len(wrong) - 1} more differences" if len(wrong) > 1 else ""
    return f"it is of another model: {wrong[0]}{more}" if wrong else ""


def _fingerprint(path: str) -> str:
    """Return text that identifies the content of a checkpoint by its checksums."""
    if not path or "://" in path:
        return ""
    with zipfile.ZipFile(path) as archive:
        return digest([[r.filename, r.CRC, r.file_size] for r in archive.infolist()])


def _check_same(path: str, expected: str) -> None:
    try:
        same = _fingerprint(path) == expected
        found = "has another content"
    except (OSError, zipfile.BadZipFile) as error:
        same, found = False, f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if not same:
        raise ValueError(
            f"rank {comm.get_rank()} sees another folder than rank 0: {path} {found} there. "
            "train.output_dir must be the same folder on all machines"
        )
