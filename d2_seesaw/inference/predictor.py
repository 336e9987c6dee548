"""Trained models with their transforms, channel order and class names."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor, nn

from d2_seesaw.checkpoint import (
    CALIBRATION,
    StrictCheckpointer,
    check_class_names,
    class_metadata,
    is_classifier,
    is_semantic,
)
from d2_seesaw.checkpoint.safetensors_files import is_safetensors, read_safetensors
from d2_seesaw.data import check_dataset_files, load_dataset
from d2_seesaw.data.transforms import PixelKeepingAugmentations
from d2_seesaw.engine import load_config
from d2_seesaw.engine.boxes_only import leave_out_mask_head, masks_left_out
from d2_seesaw.engine.launch import torch_device
from d2_seesaw.evaluation.analysis.operating_points import ThresholdRule
from d2_seesaw.evaluation.predictions.score_origin import ScoreOrigin
from d2_seesaw.inference.calibration import apply_calibration
from d2_seesaw.inference.sources import as_bgr
from d2_seesaw.inference.thresholds import (
    ScoreThresholds,
    load_thresholds,
    lower_score_limits,
)
from d2_seesaw.inference.tta import evaluating

PARTS = ("model", "dataloader.test.mapper")
"""Parts of a config that a predictor needs."""


class Predictor:
    """Prediction on single images, like Detectron2's ``DefaultPredictor`` for yacs.

    Args:
        model: Model for instances or semantic segmentation, with or without test-time augmentation.
        augmentations: Augmentations of the test data, applied to each image.
        image_format: Channel order of the model, ``"BGR"`` or ``"RGB"``.
        metadata: Metadata with ``class_names``, see :func:`~d2_seesaw.checkpoint.class_metadata`.
        is_semantic: Whether the model predicts label maps.
        thresholds: Score thresholds of detections; the model's own alone if None.
        origin: Origin of the scores, for the record of a prediction.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        augmentations: T.Augmentation | T.AugmentationList,
        image_format: str,
        metadata: Mapping[str, Any],
        is_semantic: bool = False,
        thresholds: ScoreThresholds | None = None,
        origin: ScoreOrigin | None = None,
    ) -> None:
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"image_format must be 'BGR' or 'RGB', got {image_format!r}")
        self.model = model
        self.augmentations = PixelKeepingAugmentations(augmentations)
        self.image_format = image_format
        self.class_names = list(metadata["class_names"])
        self.category_ids = list(metadata["category_ids"])
        self.class_colors = metadata.get("class_colors")
        self.is_semantic = is_semantic
        self.thresholds = thresholds
        self.origin = origin or ScoreOrigin()

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> dict[str, Any]:
        """Predict on an image.

        Args:
            image: a path; a Pillow image; or a uint8 array as ``cv2.imread`` returns it and
                ``DefaultPredictor`` takes it: ``(H, W, 3)`` in BGR whatever ``image_format`` is,
                ``(H, W)`` or ``(H, W, 1)`` gray, or ``(H, W, 4)`` BGRA, whose alpha is dropped.
                Files and Pillow images are rotated by their EXIF orientation.

        Returns:
            ``{"instances": ...}`` or ``{"sem_seg": (C, H, W)}`` on the CPU, in coordinates of the
            image.

        Raises:
            ValueError: another kind, dtype or shape, or a file that cannot be read.
        """
        output = self.predict_all(image)
        if self.thresholds is not None and "instances" in output:
            output["instances"] = self.thresholds.select(output["instances"])
        return output

    @torch.no_grad()
    def predict_all(self, image: str | Path | Image.Image | np.ndarray) -> dict[str, Any]:
        """Predict without ``thresholds``; arguments, result and errors as for a prediction."""
        inputs = self.inputs(image)
        with evaluating(self.model):
            (output,) = self.model([inputs])
        return {name: value.to("cpu") for name, value in output.items()}

    def inputs(self, image: str | Path | Image.Image | np.ndarray) -> dict[str, Any]:
        """Return the input of the model for an image.

        Args:
            image: as for a prediction.

        Returns:
            The ``(3, H, W)`` uint8 "image" after the augmentations, in the channel order of the
            model; the "height" and "width" before them; and the "original_image".
        """
        image = as_bgr(image)
        if self.image_format == "RGB":
            image = image[:, :, ::-1]
        height, width = image.shape[:2]
        augmented: Any = T.AugInput(image)  # its image is annotated as optional
        self.augmentations(augmented)
        return {
            "image": _channels_first(augmented.image),
            "height": height,
            "width": width,
            # Test-time augmentation makes its own views.
            "original_image": _channels_first(image),
        }


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


def best_instances(
    instances: Instances, *, score_threshold: float = 0.0, max_detections: int | None = None
) -> Instances:
    """Return at most ``max_detections`` with at least ``score_threshold``, best first."""
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
    trust: bool = False,
    calibrated: bool = True,
    threshold: str | float | None = None,
) -> Predictor:
    """Load a trained model from its checkpoint and the config that was saved next to it.

    Nothing that these files say is run without ``trust``: see
    :func:`~d2_seesaw.engine.load_config`. Only the model, the mapper of the test data and, on
    request, ``tta`` are built. Class names are read from the checkpoint. If it has none, they are
    those of the dataset in the config.

    Args:
        checkpoint: Checkpoint of a training run.
        config_file: Config file; by default ``config.yaml`` in the folder of the checkpoint.
            A Python config is a program, which is run.
        overrides: Changes of the config, ``key=value``.
        device: Device name; ``"auto"`` is the GPU if there is one, otherwise the CPU.
        tta: Whether to use test-time augmentation, with the views in ``tta`` of the config.
        trust: Whether the config may name anything, which can run any code.
        calibrated: Whether to apply the calibration of the checkpoint, if it has one.
        threshold: Lowest score of detections: a number; or ``"best-f1"``, ``"precision=P"`` or
            ``"recall=R"`` for a threshold of each class, from the file ``.thresholds.json`` that an
            evaluation wrote beside the checkpoint. By default the one of the model.

    Raises:
        FileNotFoundError: the checkpoint or the config does not exist.
        ValueError: another ``threshold``, or the checkpoint has no such file; the config names
            something that needs ``trust``, the checkpoint is damaged, weights do not match the
            config, class names are missing or their number is not that of the classes, the config
            has no model, no test data or no ``tta``, a part cannot be built, or the device is not
            available.
    """
    checkpoint = Path(checkpoint)
    rule = None if threshold is None else ThresholdRule.parse(threshold)
    parts = (*PARTS, "tta") if tta else PARTS
    cfg = load_run_config(checkpoint, config_file, overrides, trust=trust, parts=parts)
    if tta and "tta" not in cfg:
        raise ValueError(
            "test-time augmentation needs a config with views: "
            f"{config_file or checkpoint.with_name('config.yaml')} has no `tta`, see "
            "configs/common/tta.py"
        )
    model = build_for_inference(cfg, device)
    if is_classifier(model):
        raise ValueError(
            f"{checkpoint} is an image classifier, and predictions are made with detectors and "
            "models for semantic segmentation. Evaluate it with d2-seesaw train --eval-only"
        )
    saved = StrictCheckpointer(model, require_all=True, allow_partial=None).load(str(checkpoint))
    apply_calibration(model, saved, str(checkpoint), enabled=calibrated)
    metadata = _class_names(saved.get("metadata", {}), cfg, model, checkpoint)
    semantic, uncalibrated = is_semantic(model), CALIBRATION in saved and not calibrated
    if rule is not None and rule.kind != "score":
        _check_rule(rule, checkpoint, semantic, uncalibrated=uncalibrated)
    thresholds = None
    if rule is not None and not semantic:
        masks = bool(getattr(model.roi_heads, "mask_on", False))
        thresholds = load_thresholds(rule, checkpoint, metadata, masks=masks, tta=tta)
    mapper = build_part(cfg, "dataloader.test.mapper")
    if tta:
        cfg.tta.model = model
        model = build_part(cfg, "tta")
    if thresholds is not None:
        lower_score_limits(model, float(thresholds.values.min()))
    return Predictor(
        model,
        augmentations=mapper.augmentations,
        image_format=mapper.image_format,
        metadata=metadata,
        is_semantic=semantic,
        thresholds=thresholds,
        origin=ScoreOrigin(
            str(checkpoint), thresholds and thresholds.sha256, tta, without_calibration=uncalibrated
        ),
    )


def _check_rule(
    rule: ThresholdRule, checkpoint: Path, semantic: bool, *, uncalibrated: bool
) -> None:
    """Refuse thresholds of classes for label maps, and for a model without its calibration."""
    if semantic or uncalibrated:
        why = "predicts label maps" if semantic else "was evaluated with its calibration"
        raise ValueError(f"threshold {rule} does not apply: the model of {checkpoint} {why}")


def load_run_config(
    checkpoint: Path,
    config_file: str | Path | None,
    overrides: list[str] | None = None,
    *,
    trust: bool = False,
    parts: Sequence[str] = PARTS,
) -> DictConfig:
    """Load the config of a checkpoint, by default ``config.yaml`` beside it.

    Without weights of a mask head in the checkpoint, as after training on boxes, it has no masks.

    Raises:
        FileNotFoundError: the checkpoint or the config does not exist.
        ValueError: the config lacks a part of :data:`PARTS`, or as ``load_config``.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint {str(checkpoint)!r} does not exist")
    config_file = config_file or checkpoint.with_name("config.yaml")
    if not Path(config_file).is_file():
        raise FileNotFoundError(
            f"config {str(config_file)!r} does not exist; training saves it next to the checkpoints"
        )
    cfg = load_config(str(config_file), overrides, trust=trust, parts=parts)
    for key in PARTS:
        if OmegaConf.select(cfg, key) is None:
            raise ValueError(f"config {config_file} has no `{key}`: it is not a training config")
    heads = OmegaConf.select(cfg, "model.roi_heads") or {}
    if masks_left_out(cfg) or ("mask_head" in heads and not _has_mask_weights(checkpoint)):
        leave_out_mask_head(cfg)
    return cfg


def _has_mask_weights(checkpoint: Path) -> bool:
    """Return whether a checkpoint has weights of a mask head; True if it cannot be read."""
    try:
        if is_safetensors(checkpoint):
            content: Any = read_safetensors(checkpoint)
        else:
            mapped = zipfile.is_zipfile(checkpoint)
            content = torch.load(checkpoint, "cpu", weights_only=True, mmap=mapped)
        return any("mask_head." in name for name in content["model"])
    except Exception:  # a damaged file may raise anything, and loading the weights says more
        return True


def build_for_inference(cfg: DictConfig, device: str) -> Any:
    """Build the model of a config on a device, in evaluation mode and without weights."""
    _without_pretrained_weights(cfg)
    return build_part(cfg, "model").to(torch_device(device)).eval()


def _without_pretrained_weights(cfg: DictConfig) -> None:
    """Keep backbones from loading weights that the checkpoint replaces."""
    for trunk in ("bottom_up", "net"):  # of an FPN, of a simple feature pyramid
        backbone = OmegaConf.select(cfg, f"model.backbone.{trunk}")
        if isinstance(backbone, DictConfig) and "pretrained" in backbone:
            backbone.pretrained = False


def build_part(cfg: DictConfig, part: str) -> Any:
    """Build a part of a config.

    Raises:
        ValueError: it cannot be built.
    """
    try:
        return instantiate(OmegaConf.select(cfg, part))
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # the constructor may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{part} of the config cannot be built: {reason}") from error


def _class_names(
    saved: Mapping[str, Any], cfg: DictConfig, model: nn.Module, checkpoint: Path
) -> Mapping[str, Any]:
    if "class_names" in saved:
        check_class_names(saved, model, f"checkpoint {checkpoint}")
        return saved
    names = OmegaConf.select(cfg, "dataloader.train.dataset.names")
    if names is None:
        raise ValueError(f"{checkpoint} has no class names, and its config names no dataset")
    found = class_metadata(names, model)
    if "class_names" not in found:  # known once the dataset has been loaded
        try:
            check_dataset_files(names)
            load_dataset(names)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"checkpoint {checkpoint} has no class names, and those of its dataset cannot be "
                f"read: {error}"
            ) from error
        found = class_metadata(names, model)
    check_class_names(found, model, f"dataset {names}")
    return found
