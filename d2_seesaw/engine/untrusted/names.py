"""Names that a config of somebody else may build: parts of models, and what shipped configs use.

A name is compared as text first, then looked up without importing any module but the listed
packages, and what it leads to must be one of the listed objects itself. So aliases of other objects
and of other modules inside these packages are refused.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import nn

MODULE_PACKAGES = (
    "d2_seesaw.layers",
    "d2_seesaw.losses",
    "d2_seesaw.modeling",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.projects.deeplab",
    "torch.nn",
    "torchvision.models",
    "torchvision.ops",
)
"""Packages whose subclasses of ``nn.Module`` a model may consist of."""

REFUSED_MODULES = ("MMDetBackbone", "MMDetDetector", "GeneralizedRCNNWithTTA")
"""Modules of these packages that build others by names of their own, or read files."""

TEST_MAPPER = "dataloader.test.mapper"

CALLABLES: dict[str, tuple[str, ...]] = {
    "model": (
        "d2_seesaw.data.training_class_counts",
        "d2_seesaw.layers.frozen_statistics_batch_norm",
        "d2_seesaw.layers.kaiming_mask_predictor",
        "d2_seesaw.layers.layer_norm",
        "d2_seesaw.layers.linear_classifier",
        "d2_seesaw.layers.mask_predictor",
        "d2_seesaw.layers.normed_linear_classifier",
        "d2_seesaw.layers.normed_mask_predictor",
        "d2_seesaw.layers.sync_batch_norm",
        "d2_seesaw.layers.tau_normalized_classifier",
        "d2_seesaw.modeling.MaxIoUMatcher",
        "d2_seesaw.modeling.TorchInitializedMaskHead",
        "d2_seesaw.modeling.TwoSidedBox2BoxTransform",
        "d2_seesaw.modeling.dilated_resnet_stages",
        "detectron2.layers.ShapeSpec",
        "detectron2.modeling.ResNet.make_default_stages",
        "detectron2.modeling.ResNet.make_stage",
        "detectron2.modeling.box_regression.Box2BoxTransform",
        "detectron2.modeling.matcher.Matcher",
    ),
    "tta": (
        "d2_seesaw.inference.MultiViewInference",
        "d2_seesaw.inference.UnionOfDetections",
    ),
    TEST_MAPPER: (
        "d2_seesaw.data.ClassificationDatasetMapper",
        "d2_seesaw.data.OpenCVResize",
        "d2_seesaw.data.OpenCVResizeShortestEdge",
        "d2_seesaw.data.SemanticDatasetMapper",
        "detectron2.data.DatasetMapper",
        "detectron2.data.transforms.Resize",
        "detectron2.data.transforms.ResizeShortestEdge",
        "torchvision.transforms.CenterCrop",
        "torchvision.transforms.Resize",
    ),
    "dataloader": (
        "d2_seesaw.data.BitMaskDatasetMapper",
        "d2_seesaw.data.ClassBalancedSampling",
        "d2_seesaw.data.ClassPixels",
        "d2_seesaw.data.EnlargeToCrop",
        "d2_seesaw.data.InstaBoost",
        "d2_seesaw.data.InstanceAugmentationDatasetMapper",
        "d2_seesaw.data.InstanceDatasetMapper",
        "d2_seesaw.data.LabelReader",
        "d2_seesaw.data.PillowColorJitter",
        "d2_seesaw.data.ProgressivelyBalancedSampling",
        "d2_seesaw.data.RandomSampling",
        "d2_seesaw.data.RepeatFactorSampling",
        "d2_seesaw.data.SquareRootSampling",
        "d2_seesaw.data.build_train_loader",
        "d2_seesaw.data.load_dataset",
        "d2_seesaw.evaluation.LongTailClassificationEvaluator",
        "d2_seesaw.evaluation.LongTailLVISEvaluator",
        "d2_seesaw.evaluation.LongTailSemSegEvaluator",
        "d2_seesaw.evaluation.MaskScoringCOCOEvaluator",
        "d2_seesaw.report.write_evaluation_report",
        "detectron2.data.build_detection_test_loader",
        "detectron2.data.transforms.FixedSizeCrop",
        "detectron2.data.transforms.RandomCrop",
        "detectron2.data.transforms.RandomFlip",
        "detectron2.data.transforms.ResizeScale",
        "torchvision.transforms.ColorJitter",
        "torchvision.transforms.RandomHorizontalFlip",
        "torchvision.transforms.RandomResizedCrop",
    ),
    "optimizer": (
        "d2_seesaw.modeling.layer_decay",
        "detectron2.solver.get_default_optimizer_params",
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.SGD",
    ),
    "lr_multiplier": (
        "d2_seesaw.engine.cosine_with_warmup",
        "d2_seesaw.engine.multi_step_with_warmup",
        "d2_seesaw.engine.polynomial_with_warmup",
        "fvcore.common.param_scheduler.CosineParamScheduler",
        "fvcore.common.param_scheduler.LinearParamScheduler",
    ),
}
"""Other callables, by the part of a config that may name them. Shipped configs use all of them."""

_PACKAGES = (
    *MODULE_PACKAGES,
    "d2_seesaw.data",
    "d2_seesaw.engine",
    "d2_seesaw.evaluation",
    "d2_seesaw.inference",
    "d2_seesaw.report",
    "detectron2.data",
    "detectron2.solver",
    "fvcore.common.param_scheduler",
    "torch.optim",
    "torchvision.transforms",
)
_NAME = re.compile(r"[a-z]\w*(\.[a-zA-Z]\w*)+", re.ASCII)


def find(name: str) -> Any:
    """Return what a name leads to inside the listed packages; None if there is no such thing."""
    package = next((p for p in _PACKAGES if name.startswith(f"{p}.")), None)
    if package is None or not _NAME.fullmatch(name):
        return None
    found, path = importlib.import_module(package), package
    for part in name.removeprefix(f"{package}.").split("."):
        path = f"{path}.{part}"
        if not (inspect.ismodule(found) or inspect.isclass(found)):
            return None
        found = getattr(found, part, None)
        if inspect.ismodule(found) and found.__name__ != path:
            return None
    return found


def is_allowed(value: Any, part: str) -> bool:
    """Return whether a part of a config, such as ``"model"``, may name this object."""
    if part == "model" and _is_part_of_models(value):
        return True
    root = part.partition(".")[0]
    known = [part] if part == TEST_MAPPER else [k for k in CALLABLES if k.partition(".")[0] == root]
    return callable(value) and any(value is listed for key in known for listed in _listed(key))


def _is_part_of_models(value: Any) -> bool:
    if not (inspect.isclass(value) and issubclass(value, nn.Module)):
        return False
    home = f"{value.__module__}."
    return value.__name__ not in REFUSED_MODULES and any(
        home.startswith(f"{package}.") for package in MODULE_PACKAGES
    )


@cache
def _listed(part: str) -> tuple[Any, ...]:
    return tuple(find(name) for name in CALLABLES[part])


def argument_fault(target: Any, arguments: Mapping[str, Any]) -> str:
    """Return a message about arguments that would read files or run code, else ``""``."""
    if "cfg" in arguments:  # Detectron2's classes then build whatever names are in it
        return "cfg cannot be given"
    return _ARGUMENTS[name](arguments) if (name := _path_of(target)) in _ARGUMENTS else ""


def _path_of(target: Any) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"


def _fault_of_timm(arguments: Mapping[str, Any]) -> str:
    if ":" in str(arguments.get("name", "")):
        return "name must be a model of timm, without a source such as hf-hub:"
    if not isinstance(arguments.get("pretrained", False), bool):
        return "pretrained must be true or false, not a file"
    options = arguments.get("model_options") or {}
    wrong = [k for k in options if re.search("pretrained|checkpoint|cache|file|url", str(k))]
    return f"model_options.{wrong[0]} cannot be given" if wrong else ""


def _fault_of_dataset(arguments: Mapping[str, Any]) -> str:
    # Detectron2 takes a section for a yacs config, which may name pickled proposals.
    dataset = arguments.get("dataset")
    if isinstance(dataset, Mapping) and "_target_" not in dataset:
        return "dataset must be built by load_dataset"
    return ""


_ARGUMENTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "d2_seesaw.data.loader.build_train_loader": _fault_of_dataset,
    "detectron2.data.build.build_detection_test_loader": _fault_of_dataset,
    "d2_seesaw.modeling.backbones.timm.TimmBackbone": _fault_of_timm,
}
