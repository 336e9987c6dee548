"""Convert a checkpoint of MMDetection with Seesaw Loss or softmax, to be evaluated or trained here.

Prints the config that the weights belong to and the command that evaluates them. Nothing in the
file is executed without --trust, and no file is replaced without --overwrite.

Examples:
  d2-seesaw convert MMDET.pth OURS.pth
  d2-seesaw convert epoch_24.pth ours.pth --mask norm
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import instantiate

from d2_seesaw.checkpoint import (
    MmdetModel,
    class_metadata,
    convert_mmdet,
    describe_mmdet,
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
    if "seesaw_loss" not in words:
        raise ValueError(
            "the mask predictor is plain or normalized, which neither a config in the file nor a "
            "file name of mmdet's model zoo says: give --mask plain or --mask norm"
        )
    return "normed_mask" in words


def recipe_for(model: MmdetModel, norm_mask: bool) -> Recipe:
    """Return the shipped config closest to ``model``, and the overrides that make it fit."""
    depth = 101 if model.cascade else model.depth
    name = f"{'cascade_' if model.cascade else ''}mask_rcnn_r{depth}_fpn"
    mask = "_norm_mask" if norm_mask else ""
    config = f"configs/mmdet/{name}_seesaw{mask}.py"
    overrides = []
    if not model.seesaw:
        config = f"configs/lvis_v1/{name}_softmax_rfs_2x.py"
        heads = [f".{stage}" for stage in range(3)] if model.cascade else [""]
        target = "predictor._target_=d2_seesaw.layers.normed_mask_predictor"
        overrides += [f"model.roi_heads.mask_head{head}.{target}" for head in heads if norm_mask]
    if model.depth != depth:
        overrides.append(f"model.backbone.bottom_up.stages.depth={model.depth}")
    if model.num_classes != 1203:
        overrides.append(f"model.roi_heads.num_classes={model.num_classes}")
    return Recipe(config, overrides)


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
        ours = instantiate(cfg.model)
    weights = convert_mmdet(file.state, ours.state_dict())
    is_lvis = model.num_classes == 1203  # The class names of other datasets are unknown.
    metadata = class_metadata(cfg.dataloader.test.dataset.names, ours) if is_lvis else {}
    save_weights(args.output, weights, metadata, __author__="mmdet, converted by d2_seesaw")
    return report(args.output, model, norm_mask, recipe, len(weights))


def report(
    output: Path, model: MmdetModel, norm_mask: bool, recipe: Recipe, num_tensors: int
) -> str:
    """Describe the new checkpoint and how to evaluate it."""
    kind = "Cascade Mask R-CNN" if model.cascade else "Mask R-CNN"
    command = ["d2-seesaw train --eval-only --config-file", recipe.config]
    command += [f"train.init_checkpoint={output}", *recipe.overrides]
    lines = [
        f"{output}: {kind} R-{model.depth}, {'Seesaw Loss' if model.seesaw else 'softmax'}, "
        f"{model.num_classes} classes, {'normalized' if norm_mask else 'plain'} mask predictor, "
        f"{num_tensors} tensors",
        f"config: {recipe.config}",
        f"evaluate: {' '.join(command)}",
    ]
    if model.num_classes != 1203:
        lines.append("for your own data also give dataloader.test.dataset.names=NAME")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Convert the checkpoint and print how to evaluate it."""
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line("convert"):
        say(convert(args))
