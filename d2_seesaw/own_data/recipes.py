"""Base configs for own data, the machines they are for, and the limits of what is chosen."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from d2_seesaw.checkpoint.pretrained import is_backbone_address
from d2_seesaw.own_data.anchors import Anchors
from d2_seesaw.own_data.start import DetectorStart

CPU, ONE_GPU, EIGHT_GPUS = "own_data/cpu", "own_data/one_gpu", "own_data/eight_gpus"

_LIMITS: dict[str, dict[str, Any]] = {
    CPU: {"edges": (192, 512), "pixels": 0.8e6, "rois": (48, 128), "steps": (300, 4000)},
    ONE_GPU: {"edges": (480, 1024), "pixels": 6e6, "rois": (256, 512), "steps": (1000, None)},
    # Two images of 800 x 1333 pixels for each GPU.
    EIGHT_GPUS: {"edges": (640, 1024), "pixels": 17e6, "rois": (512, 512), "steps": (1000, None)},
}
_DEVICES = {CPU: "CPU", ONE_GPU: "GPU", EIGHT_GPUS: "machine with several GPUs"}
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Choice:
    """A choice, and its reason.

    Attributes:
        subject: the part of the training, in one or two words.
        value: the choice in words.
        reason: one sentence.
        settings: values by dotted key of the config; empty if the base config already has them.
        code: lines of Python that change the config's ``model`` beyond single values.
        warning: what the choice cannot help, in one sentence; empty if there is nothing.
    """

    subject: str
    value: str
    reason: str
    settings: dict[str, Any]
    code: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Recipe:
    """The limits within which a base config is changed, which follow from its machine.

    Attributes:
        config: name of the base config.
        device: the machine in words.
        processes: number of processes, which share a batch equally.
        edges: least and greatest short edge of resized images, in pixels.
        batch: greatest number of images of a step.
        pixels: number of resized pixels of a step that fit in memory and time.
        lr: learning rate of a step of ``batch`` images.
        weights: pretrained weights that training starts from: of a backbone, or of a detector.
        starts_from_detector: whether they are those of a whole detector.
        has_zoo_input: whether they take the input of Detectron2's model zoo: BGR minus a mean.
        anchors: default anchors.
        rois: least and greatest number of RoIs of an image in training.
        steps: least and greatest number of steps; no limit if None.
        start: the detector of ``weights``; None if there is none, or it cannot be read here.
    """

    config: str
    device: str
    processes: int
    edges: tuple[int, int]
    batch: int
    pixels: float
    lr: float
    weights: str
    anchors: Anchors
    rois: tuple[int, int]
    steps: tuple[int, int | None]
    starts_from_detector: bool = False
    has_zoo_input: bool = False
    start: DetectorStart | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether the time of a CPU limits the training."""
        return self.device == "CPU"


@dataclass(frozen=True)
class Machine:
    """The part of a machine that the choice depends on.

    Attributes:
        gpus: number of GPUs that torch can use.
        cores: number of CPU cores that this process may use.
        has_bfloat16: whether the GPU computes bfloat16 fast.
    """

    gpus: int
    cores: int
    has_bfloat16: bool

    @classmethod
    def here(cls) -> "Machine":
        """Describe this machine."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        has_affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        # torch's own question is true for emulated bfloat16, too.
        has_bfloat16 = gpus > 0 and torch.cuda.get_device_capability()[0] >= 8
        return cls(gpus, cores, has_bfloat16)


def base_name(config: str) -> str:
    """Return the name of a base config, which may be given with ``configs/`` and ``.py``.

    Raises:
        ValueError: another config.
    """
    name = config.removeprefix("configs/").removesuffix(".py")
    if name not in _LIMITS:
        raise ValueError(
            f"--data chooses on the basis of {', '.join(_LIMITS)}, got --config-file {config}; "
            "docs/own_data.md shows how to register data in a config of one's own"
        )
    return name


def choose_base(
    machine: Machine, config: str | None = None, processes: int | None = None
) -> tuple[str, int, Choice]:
    """Choose the base config and the number of processes.

    Args:
        machine: the machine to train on.
        config: the user's choice, with or without ``configs/`` and ``.py``.
        processes: the user's number of GPUs, or of processes on a CPU.

    Raises:
        ValueError: another config.
    """
    if config is not None:
        name = base_name(config)
        reason = "given by --config-file"
    elif machine.gpus == 0:
        name, reason = CPU, "there is no GPU that torch can use"
    elif (processes or machine.gpus) == 1:
        name, reason = ONE_GPU, "one GPU is used"
    else:
        name, reason = EIGHT_GPUS, f"{processes or machine.gpus} GPUs are used"
    if processes is None:
        processes = max(1, machine.gpus) if name == EIGHT_GPUS else 1
    processes = max(1, processes)
    share = max(1, machine.cores // processes)
    workers = min(share - 1, 1) if name == CPU else min(share, _MOST_WORKERS)
    settings: dict[str, Any] = {
        "train.reference_world_size": processes,
        "dataloader.train.num_workers": workers,
        "dataloader.test.num_workers": workers,
    }
    value = f"{name}, {processes} process{'es' * (processes > 1)}, {workers} to load images"
    if name != CPU:
        dtype = "bfloat16" if machine.has_bfloat16 else "float16"
        settings["train.amp.dtype"] = dtype
        value += f", {dtype}"
    return name, processes, Choice("machine", value, reason, settings)


def recipe_of(name: str, cfg: DictConfig, processes: int) -> Recipe:
    """Return the limits of a base config for a number of processes.

    Batch, learning rate and pixels of a step grow with the number of GPUs.

    Raises:
        ValueError: weights of Detectron2's model zoo for the base config of a CPU.
    """
    limits = _LIMITS[name]
    weights = cfg.train.init_checkpoint
    if name == CPU and weights.endswith(".pkl"):
        raise ValueError(
            f"train.init_checkpoint={weights} is a ResNet of Detectron2's model zoo, and {name} "
            f"has a MobileNetV2: give --config-file {ONE_GPU}"
        )
    factor = processes / cfg.train.reference_world_size if name == EIGHT_GPUS else 1
    generator = cfg.model.proposal_generator.anchor_generator
    return Recipe(
        config=name,
        device=_DEVICES[name],
        processes=processes,
        batch=round(cfg.dataloader.train.total_batch_size * factor),
        lr=cfg.optimizer.lr * factor,
        weights=weights,
        starts_from_detector=bool(weights) and not is_backbone_address(weights),
        has_zoo_input=weights.endswith(".pkl") and "ImageNetPretrained/torchvision/" not in weights,
        anchors=Anchors(
            sizes=[sizes[0] for sizes in generator.sizes],
            aspect_ratios=list(generator.aspect_ratios),
            strides=list(generator.strides),
        ),
        **{**limits, "pixels": limits["pixels"] * factor},
    )
