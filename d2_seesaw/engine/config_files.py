"""Config files by path, or by their name among the shipped configs."""

import os
from pathlib import Path

import d2_seesaw
from d2_seesaw.utils.text import did_you_mean

_PACKAGE = Path(d2_seesaw.__file__).resolve().parent


def config_folder() -> Path:
    """Return the folder of the shipped configs, in the wheel or in the checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str | Path) -> Path:
    """Return the path of a config file.

    Args:
        name: a path, or the name of a shipped config: its path below ``configs/``, with or without
            this folder and the suffix ``.py``, such as ``lvis_v1/mask_rcnn_r50_fpn_seesaw_rfs_2x``.

    Raises:
        FileNotFoundError: there is no such file; the message names the closest one.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = config_folder()
    below = path.relative_to("configs") if path.is_relative_to("configs") else path
    for shipped in (folder / below, folder / f"{below}.py"):
        if not path.is_absolute() and shipped.is_file():
            return shipped
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.py")]
    leaves = [name for name in names if not name.startswith("common/")]
    choices = [*leaves, *(f"configs/{name}.py" for name in leaves), *path.parent.glob("*.py")]
    hint = did_you_mean(name, choices)
    raise FileNotFoundError(f"config file {str(name)!r} does not exist{hint}")


def config_name(path: str | os.PathLike[str]) -> str:
    """Return the path of a config below the nearest folder named ``configs``, without its suffix.

    A config in no such folder is named by its stem. ``configs/lvis_v1/x.py`` is ``lvis_v1/x``,
    ``/home/me/y.py`` is ``y``.
    """
    file = Path(os.path.abspath(path)).with_suffix("")
    folder = next((parent for parent in file.parents if parent.name == "configs"), file.parent)
    return file.relative_to(folder).as_posix()
