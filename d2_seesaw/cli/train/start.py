"""What is known, before a training on own data, of the detector that it starts from."""

import os
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.engine import load_config
from d2_seesaw.own_data.start import DetectorStart


def read_start(weights: str) -> DetectorStart | None:
    """Read the shapes of a checkpoint, and the anchors in ``config.yaml`` beside it.

    Nothing in these files is run.

    Args:
        weights: ``train.init_checkpoint``.

    Returns:
        None if there is no such file here, such as for a URL, or if it cannot be read; loading the
        weights says more then.
    """
    if not os.path.isfile(weights):
        return None
    try:
        content = StrictCheckpointer(nn.Module()).read(weights)
    except ValueError:
        return None
    shapes = {name: tuple(value.shape) for name, value in content["model"].items()}
    return DetectorStart.of(shapes, _config(Path(weights).with_name("config.yaml")))


def _config(path: Path) -> DictConfig | None:
    try:
        return load_config(str(path), parts=("model",)) if path.is_file() else None
    except (ValueError, OSError):  # written by another program, or names what needs trust
        return None
