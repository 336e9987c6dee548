"""What is known, before a training on own data, of the file that it starts from."""

from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.engine import load_config
from d2_seesaw.own_data.start import DetectorStart


def read_start(weights: str, model: DictConfig) -> tuple[DetectorStart | None, str]:
    """Read the shapes of a local checkpoint, and the anchors in ``config.yaml`` beside it.

    Nothing in these files is run.

    Args:
        weights: the path of ``train.init_checkpoint``.
        model: config of the model, whose backbone the names of a pretrained one are converted to.

    Returns:
        The detector, None if the file has a backbone alone; and the author that a file of
        Detectron2's model zoo names, or an empty string.

    Raises:
        ValueError: the file cannot be read, or has another backbone.
    """
    with torch.device("meta"):
        built: Any = instantiate(model)
    content = StrictCheckpointer(built).read(weights)
    shapes = {name: tuple(value.shape) for name, value in content["model"].items()}
    author = str(content.get("__author__", ""))
    if not DetectorStart.is_in(shapes):
        return None, author
    return DetectorStart.of(shapes, _config(Path(weights).with_name("config.yaml"))), author


def _config(path: Path) -> DictConfig | None:
    try:
        return load_config(str(path), parts=("model",)) if path.is_file() else None
    except (ValueError, OSError):  # written by another program, or names what needs trust
        return None
