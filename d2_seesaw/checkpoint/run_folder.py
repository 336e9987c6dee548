"""Output folder of a training: whether it may start there, and moving an earlier one aside.

``--restart`` moves the files of a training into ``previous_1``, ``previous_2`` and so on below the
same folder. So it works when the folder is a mount point or a link, when its parent cannot be
written, and each file moves by a rename within one file system. Files of others stay, and a folder
that holds no training is left as it is.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from detectron2.utils import comm

from d2_seesaw.checkpoint.resuming import LAST, training_checkpoints
from d2_seesaw.utils.files import remove_partial_files, sync_folder
from d2_seesaw.utils.marks import has_mark
from d2_seesaw.utils.ranks import from_first_rank, raise_on_all_ranks

RUN_FILES = (
    "model_*.pth",
    "model_*.safetensors",
    "model_*.thresholds.json",
    "last_checkpoint",
    "config.yaml",
    "config.yaml.pkl",
    "config_eval.yaml",
    "config_eval.yaml.pkl",
    "config*.datasets.json*",
    "evaluations.jsonl*",
    "log.txt*",
    "log_eval.txt*",
    "metrics.json*",
    "events.out.tfevents.*",
    "inference",
    "inference_eval",
    "inference_eval_tta",
    "inference_tta",
    "pictures",
    "wandb",
    "wandb_run.txt",
    "mlflow_run.txt",
)
"""Patterns of the files and folders that a training writes, and its evaluations and pictures."""

CONFIG = "config.yaml"
_SECTIONS = ("dataloader", "lr_multiplier", "model", "optimizer", "train")  # of what can be trained

_MOVING = re.compile(r"previous_(\d+)\.incomplete")
_MOVED = re.compile(r"previous_(\d+)(\.incomplete)?")


@dataclass(frozen=True)
class PreparedFolder:
    """Changes that :func:`prepare_folder` made.

    Attributes:
        folder: output folder.
        moved_to: folder with the files of the earlier training; empty if none were moved.
        notes: one line for the log for each change.
    """

    folder: str
    moved_to: str = ""
    notes: list[str] = field(default_factory=list)

    def follow(self, path: str) -> str:
        """Return where a file is now, which may be one that was moved aside."""
        if not self.moved_to or not path or "://" in path or os.path.lexists(path):
            return path
        absolute = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        within = os.path.relpath(absolute, os.path.realpath(self.folder))
        moved = os.path.join(self.moved_to, within)
        return moved if not within.startswith(os.pardir) and os.path.lexists(moved) else path


def prepare_folder(folder: str, *, resume: bool, restart: bool) -> PreparedFolder:
    """Decide whether a training may start in a folder, and clear it of leftovers.

    The main process decides. Every rank must call this, after it has read its config and before it
    opens files in the folder.

    Args:
        folder: output folder. URLs are left as they are.
        resume: continue the training of this folder, if there is one.
        restart: move the files of an earlier training aside.

    Raises:
        ValueError: neither, although the folder has checkpoints of a training; ``restart`` of a
            URL; or see :func:`check_config_is_saved`.
        OSError: files cannot be moved.
        OtherRankError: the main process raised.
    """
    comm.synchronize()  # all ranks have read a config that may be moved
    prepared = PreparedFolder(folder)
    with raise_on_all_ranks():
        if comm.is_main_process():
            prepared = _prepare(folder, resume=resume, restart=restart)
    return from_first_rank(prepared)


def _prepare(folder: str, *, resume: bool, restart: bool) -> PreparedFolder:
    if "://" in folder:
        if restart:
            raise ValueError(f"--restart cannot move the files of {folder}: choose another folder")
        return PreparedFolder(folder)
    os.makedirs(folder, exist_ok=True)
    notes = [
        f"Removed {name}, which an interrupted process left unfinished"
        for name in remove_partial_files(folder)
    ]
    notes += _undo_interrupted_moves(Path(folder))
    check_config_is_saved(folder)
    if restart:
        moved_to = move_aside(folder)
        if moved_to:
            notes.append(f"Moved the files of the earlier training to {moved_to}")
        return PreparedFolder(folder, moved_to, notes)
    if not resume and (found := training_checkpoints(folder)):
        names = [path.name for path in found]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"{folder} has checkpoints of a training ({', '.join(names[:3])}{more}): --resume "
            "continues it, --restart moves it aside and starts anew, train.output_dir=FOLDER "
            "chooses another folder"
        )
    return PreparedFolder(folder, notes=notes)


def check_config_is_saved(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder whose ``config.yaml`` is the user's own: a training would replace it.

    It is that of a training if there are checkpoints, or if it has all sections of a config and no
    comment, which a saved config never has.

    Raises:
        ValueError: the file is the user's own.
    """
    path = Path(folder, CONFIG)
    if os.path.lexists(path) and not (_is_saved(path) or training_checkpoints(folder)):
        raise ValueError(
            f"{path} is not from a training, and a training in {folder} would replace it: choose "
            "another output folder (train.output_dir=FOLDER, with --data --output FOLDER)"
        )


def _is_saved(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    has_comment = re.search(r"^\s*#", text, re.MULTILINE)
    return not has_comment and all(re.search(rf"^{s}:", text, re.MULTILINE) for s in _SECTIONS)


def _files_of_training(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the files and folders of a training; none if the folder does not hold one."""
    if not (LAST in names or _is_saved(folder / CONFIG) or training_checkpoints(folder)):
        return []
    found = [n for n in names if any(fnmatchcase(n, pattern) for pattern in RUN_FILES)]
    users = set() if "wandb_run.txt" in names else {"wandb"}
    if not all(path.is_file() and has_mark(path) for path in folder.glob("pictures/*")):
        users.add("pictures")
    return [name for name in found if name not in users]


def move_aside(folder: str) -> str:
    """Move the files of a training into a new numbered folder below; return its path, or "".

    Of ``pictures``, only a folder that ``d2-seesaw draw`` alone has written to is moved, and of
    ``wandb`` that of a run with a ``wandb_run.txt``.

    If the process is killed meanwhile, the next start moves the files back.

    Raises:
        OSError: a file cannot be moved.
    """
    names = sorted(os.listdir(folder))
    moved = _files_of_training(Path(folder), names)
    if not moved:
        return ""
    numbers = [int(match[1]) for name in names if (match := _MOVED.fullmatch(name))]
    target = os.path.join(folder, f"previous_{max(numbers, default=0) + 1}")
    incomplete = f"{target}.incomplete"
    os.mkdir(incomplete)
    for name in moved:
        os.rename(os.path.join(folder, name), os.path.join(incomplete, name))
    sync_folder(incomplete)
    os.rename(incomplete, target)
    sync_folder(folder)
    return target


def _undo_interrupted_moves(folder: Path) -> list[str]:
    """Move files back that an interrupted ``--restart`` had moved. Existing files stay in place."""
    notes = []
    for incomplete in sorted(p for p in folder.iterdir() if _MOVING.fullmatch(p.name)):
        for entry in sorted(incomplete.iterdir()):
            if not os.path.lexists(folder / entry.name):
                os.rename(entry, folder / entry.name)
        notes.append(f"Moved the files of {incomplete} back: an interrupted --restart left them")
        if any(incomplete.iterdir()):  # new files have taken their names
            os.rename(incomplete, incomplete.with_suffix(""))
        else:
            incomplete.rmdir()
        sync_folder(folder)
    return notes
