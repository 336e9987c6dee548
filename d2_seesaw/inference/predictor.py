"""A trained model with all it needs to look at a picture: transforms, channel order, names."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from d2_seesaw.checkpoint import (
    StrictCheckpointer,
    check_class_names,
    class_metadata,
    is_semantic,
)
from d2_seesaw.data import check_dataset_files, load_dataset
from d2_seesaw.engine import load_config
from d2_seesaw.inference.tta import evaluating

_build: Any = instantiate  # whatever the config names


class Predictor:
    """Predicts on one image at a time, as Detectron2's ``DefaultPredictor`` does for yacs.

    Args:
        model: of instances or of semantic segmentation, maybe with test-time augmentation.
        augmentations: of the test data, applied to each image.
        image_format: channel order of the model, ``"BGR"`` or ``"RGB"``.
        metadata: see :func:`~d2_seesaw.checkpoint.class_metadata`, with ``class_names``.
        is_semantic: whether it predicts label maps.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        augmentations: T.Augmentation | T.AugmentationList,
        image_format: str,
        metadata: Mapping[str, Any],
        is_semantic: bool = False,
    ) -> None:
        self.model = model
        self.augmentations = augmentations
        self.image_format = image_format
        self.class_names = list(metadata["class_names"])
        self.category_ids = list(metadata["category_ids"])
        self.class_colors = metadata.get("class_colors")
        self.is_semantic = is_semantic

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """What the model returns for ``(H, W, 3)`` uint8 in ``image_format``, on the CPU.

        Returns:
            ``{"instances": ...}`` or ``{"sem_seg": (C, H, W)}`` in the frame of the image.
        """
        height, width = image.shape[:2]
        augmented: Any = T.AugInput(image)  # its image is annotated as optional
        self.augmentations(augmented)
        inputs = {
            "image": _channels_first(augmented.image),
            "height": height,
            "width": width,
            # For test-time augmentation, which makes views of its own.
            "original_image": _channels_first(image),
        }
        with evaluating(self.model):
            (output,) = self.model([inputs])
        return {name: value.to("cpu") for name, value in output.items()}


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


def best_instances(
    instances: Instances, *, score_threshold: float = 0.0, max_detections: int | None = None
) -> Instances:
    """The detections of at least ``score_threshold``, best first, at most ``max_detections``."""
    order = instances.scores.argsort(descending=True, stable=True)
    order = order[instances.scores[order] >= score_threshold]
    return instances[order[:max_detections]]


def load_predictor(
    checkpoint: str | Path,
    *,
    config_file: str | Path | None = None,
    overrides: list[str] | None = None,
    device: str = "auto",
    tta: bool = False,
) -> Predictor:
    """A trained model from its checkpoint and the config that was saved beside it.

    The names of the classes are those in the checkpoint. For one without names, such as of an
    earlier version, they are those of the config's data set.

    Args:
        checkpoint: of ``d2-seesaw train``.
        config_file: by default ``config.yaml`` in the folder of the checkpoint. Configs are
            programs: load only those you trust.
        overrides: changes of the config, ``key=value``.
        device: ``"auto"`` is the GPU if there is one, else the CPU.
        tta: test-time augmentation, with the views of the config's ``tta``.

    Raises:
        FileNotFoundError: no checkpoint or config.
        ValueError: a damaged checkpoint, weights that do not fit the config, class names that are
            missing or not as many as the model has classes, a config that is not one of
            ``d2-seesaw train`` or has no ``tta``, or a device that is not there.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint {str(checkpoint)!r} does not exist")
    config_file = config_file or checkpoint.with_name("config.yaml")
    if not Path(config_file).is_file():
        raise FileNotFoundError(
            f"config {str(config_file)!r} does not exist; training saves it beside the checkpoints"
        )
    cfg = load_config(str(config_file), overrides)
    if tta and "tta" not in cfg:
        raise ValueError(
            f"test-time augmentation needs a config that says which views: {config_file} has no "
            "`tta`. configs/common/tta.py has some"
        )
    for key in ("model", "dataloader.test.mapper"):
        if OmegaConf.select(cfg, key) is None:
            raise ValueError(f"config {config_file} has no `{key}`: it is not a training config")
    model = _build(cfg.model).to(_device(device)).eval()
    saved = _load_weights(model, checkpoint)
    metadata = _class_names(saved.get("metadata", {}), cfg, model, checkpoint)
    semantic = is_semantic(model)
    mapper = _build(cfg.dataloader.test.mapper)
    if tta:
        cfg.tta.model = model
        model = _build(cfg.tta)
    return Predictor(
        model,
        augmentations=mapper.augmentations,
        image_format=mapper.image_format,
        metadata=metadata,
        is_semantic=semantic,
    )


def _device(name: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and not has_gpu:
        raise ValueError(f"device {name!r} was asked for, but there is no GPU that torch can use")
    return device


def _load_weights(model: nn.Module, checkpoint: Path) -> dict[str, Any]:
    try:
        return StrictCheckpointer(model, require_all=True).load(str(checkpoint))
    except (RuntimeError, EOFError, UnpicklingError) as error:  # of torch.load
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {checkpoint} cannot be read: {reason}") from error


def _class_names(
    saved: Mapping[str, Any], cfg: DictConfig, model: nn.Module, checkpoint: Path
) -> Mapping[str, Any]:
    if "class_names" in saved:
        check_class_names(saved, model, f"checkpoint {checkpoint}")
        return saved
    names = OmegaConf.select(cfg, "dataloader.train.dataset.names")
    if names is None:
        raise ValueError(f"{checkpoint} has no class names, and its config no data set by name")
    found = class_metadata(names, model)
    if "class_names" not in found:  # known once the data set has been loaded
        try:
            check_dataset_files(names)
            load_dataset(names)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"checkpoint {checkpoint} has no class names, and those of its data set cannot be "
                f"read: {error}"
            ) from error
        found = class_metadata(names, model)
    check_class_names(found, model, f"data set {names}")
    return found
