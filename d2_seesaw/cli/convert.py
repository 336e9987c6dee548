"""Convert a checkpoint of MMDetection with Seesaw Loss or softmax, to be evaluated or trained here.

Mask R-CNN, Cascade Mask R-CNN and HTC, with or without its semantic branch, on a ResNet-50 or 101.

Prints the config that the weights belong to and the command that evaluates them. Nothing in the
file is executed without --trust, and no file is replaced without --overwrite.

Examples:
  d2-seesaw convert MMDET.pth OURS.pth
  d2-seesaw convert epoch_24.pth ours.pth --mask norm
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from torch import nn

from d2_seesaw.checkpoint import (
    MmdetFile,
    MmdetModel,
    class_metadata,
    convert_mmdet,
    describe_mmdet,
    normalized_layers,
    read_mmdet_file,
    save_weights,
)
from d2_seesaw.cli import command_parser, errors_in_one_line, say
from d2_seesaw.engine import load_config


@dataclass(frozen=True)
class Recipe:
    """The config that the weights belong to, and the overrides that make it fit."""

    config: str
    overrides: list[str]


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("convert", __doc__)
    add = parser.add_argument
    add("input", type=Path, help="checkpoint of MMDetection 2.x or 3.x")
    add("output", type=Path, help="checkpoint to write")
    add("--mask", choices=["plain", "norm"], help="mask predictor, if the file does not say")
    add("--trust", action="store_true", help="unpickle any object in the file, which can run code")
    add("--overwrite", action="store_true", help="replace the output if it exists")
    return parser


def is_norm_mask(given: str | None, config: str, name: str) -> bool:
    """Return whether the mask predictor is normalized, which the tensors do not show.

    Args:
        given: value of ``--mask``; takes precedence.
        config: text of mmdet's config in the file; used next.
        name: file name, as in mmdet's model zoo; used last.

    Raises:
        ValueError: none of them says.
    """
    if given is not None:
        return given == "norm"
    if config:
        return "NormedConv2d" in config
    words = name.replace("-", "_")
    if "seesaw_loss" not in words and not words.startswith("htc_"):
        raise ValueError(
            "the mask predictor is plain or normalized, which neither a config in the file nor a "
            "file name of mmdet's model zoo says: give --mask plain or --mask norm"
        )
    return "normed_mask" in words


def recipe_for(model: MmdetModel, norm_mask: bool) -> Recipe:
    """Return the shipped config closest to ``model``, and the overrides that make it fit."""
    if model.htc:
        return _recipe_for_htc(model, norm_mask)
    depth = 101 if model.cascade else model.depth
    name = f"{'cascade_' if model.cascade else ''}mask_rcnn_r{depth}_fpn"
    mask = "_norm_mask" if norm_mask else ""
    config = f"configs/mmdet/{name}_seesaw{mask}.py"
    overrides = []
    if not model.seesaw:
        config = f"configs/lvis_v1/{name}_softmax_rfs_2x.py"
        overrides += _norm_masks(3 if model.cascade else 0) if norm_mask else []
    return Recipe(config, overrides + _sizes(model, depth))


def _recipe_for_htc(model: MmdetModel, norm_mask: bool) -> Recipe:
    name = "htc" if model.semantic_classes else "htc_without_semantic"
    overrides = _norm_masks(3) if norm_mask else []
    if model.seesaw:
        for stage in range(3):
            predictor = f"model.roi_heads.box_predictors.{stage}"
            overrides += [
                f"{predictor}.cls_score._target_=d2_seesaw.layers.normed_linear_classifier",
                f"{predictor}.cls_loss._target_=d2_seesaw.losses.SeesawLoss",
            ]
    if model.semantic_classes not in (0, 183):
        overrides.append(f"model.roi_heads.semantic_head.num_classes={model.semantic_classes}")
    return Recipe(f"configs/mmdet/{name}_r50_fpn.py", overrides + _sizes(model, 50))


def _norm_masks(stages: int) -> list[str]:
    heads = [f".{stage}" for stage in range(stages)] or [""]
    target = "predictor._target_=d2_seesaw.layers.normed_mask_predictor"
    return [f"model.roi_heads.mask_head{head}.{target}" for head in heads]


def _sizes(model: MmdetModel, depth: int) -> list[str]:
    """Return overrides of a config with a ResNet of ``depth`` and its published classes."""
    overrides = []
    if model.depth != depth:
        overrides.append(f"model.backbone.bottom_up.stages.depth={model.depth}")
    if model.num_classes != _published_classes(model):
        overrides.append(f"model.roi_heads.num_classes={model.num_classes}")
    return overrides


def _published_classes(model: MmdetModel) -> int:
    """Return the number of classes of LVIS v1, or for HTC of COCO."""
    return 80 if model.htc else 1203


def convert(args: argparse.Namespace) -> str:
    """Read, convert and write a checkpoint; return the text to print.

    Raises:
        ValueError: the file cannot be read safely, or its weights do not fit.
        FileExistsError: the output exists.
    """
    if args.output.exists() and not args.overwrite:
        raise FileExistsError(f"{args.output} exists; --overwrite replaces it")
    file = read_mmdet_file(args.input, trust=args.trust)
    model = describe_mmdet(file.state)
    norm_mask = is_norm_mask(args.mask, file.config, args.input.name)
    recipe = recipe_for(model, norm_mask)
    cfg = load_config(recipe.config, recipe.overrides)
    with torch.device("meta"):
        ours: Any = instantiate(cfg.model)
    weights = convert_mmdet(file.state, ours.state_dict())
    metadata = _class_metadata(file, model, ours, cfg.dataloader.test.dataset.names)
    metadata |= normalized_layers(ours)
    save_weights(args.output, weights, metadata, __author__="mmdet, converted by d2_seesaw")
    return report(args.output, model, norm_mask, recipe, len(weights))


def _class_metadata(
    file: MmdetFile, model: MmdetModel, ours: nn.Module, published: str
) -> dict[str, Any]:
    """Return the class metadata of the published classes, or of the class names in the file."""
    if model.num_classes == _published_classes(model):
        return class_metadata(published, ours)
    if len(file.classes) != model.num_classes:
        return {}
    of_coco = class_metadata("coco_2017_train", ours)
    if list(file.classes) == of_coco["class_names"]:
        return of_coco
    ids = list(range(1, model.num_classes + 1))
    return {"dataset": "mmdet", "class_names": list(file.classes), "category_ids": ids}


def report(
    output: Path, model: MmdetModel, norm_mask: bool, recipe: Recipe, num_tensors: int
) -> str:
    """Describe the new checkpoint and how to evaluate it."""
    kind = "Cascade Mask R-CNN" if model.cascade else "Mask R-CNN"
    if model.htc:
        kind = "HTC" if model.semantic_classes else "HTC without semantic branch"
    command = ["d2-seesaw train --eval-only --config-file", recipe.config]
    command += [f"train.init_checkpoint={output}", *recipe.overrides]
    lines = [
        f"{output}: {kind} R-{model.depth}, {'Seesaw Loss' if model.seesaw else 'softmax'}, "
        f"{model.num_classes} classes, {'normalized' if norm_mask else 'plain'} mask predictor, "
        f"{num_tensors} tensors",
        f"config: {recipe.config}",
        f"evaluate: {' '.join(command)}",
    ]
    if model.num_classes != _published_classes(model):
        lines.append("for your own data also give dataloader.test.dataset.names=NAME")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Convert the checkpoint and print how to evaluate it."""
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line("convert"):
        say(convert(args))
