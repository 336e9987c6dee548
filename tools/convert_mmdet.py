"""Convert a Seesaw (or softmax) model of mmdet's into a checkpoint that train_net.py evaluates.

    python tools/convert_mmdet.py MMDET.pth OURS.pth

It says which config the weights belong to and how to evaluate them. Nothing in the file is executed
unless --trust is given, and no file is replaced unless --overwrite is.
"""

import argparse
import sys
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
from d2_seesaw.engine import load_config

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Recipe:
    """The config that the weights belong to, and what to change in it."""

    config: str
    overrides: list[str]


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("input", type=Path, help="checkpoint written by mmdet 2.x or 3.x")
    add("output", type=Path, help="checkpoint to write")
    add("--mask", choices=["plain", "norm"], help="mask predictor, if nothing in the file tells")
    add("--trust", action="store_true", help="unpickle whatever the file holds: it can run code")
    add("--overwrite", action="store_true", help="replace the output if it is there")
    return parser


def is_norm_mask(given: str | None, config: str, name: str) -> bool:
    """Whether the mask predictor is normalised, which the tensors do not tell.

    Args:
        given: ``--mask``, which decides if it is there.
        config: text of mmdet's config in the file, which is asked next.
        name: of the file, as in mmdet's model zoo.

    Raises:
        ValueError: none of them tells.
    """
    if given is not None:
        return given == "norm"
    if config:
        return "NormedConv2d" in config
    words = name.replace("-", "_")
    if "seesaw_loss" not in words:
        raise ValueError(
            "the tensors do not tell whether the mask predictor is normalised, and there is no "
            "config in the file and no name of mmdet's model zoo: give --mask plain or --mask norm"
        )
    return "normed_mask" in words


def recipe_for(model: MmdetModel, norm_mask: bool) -> Recipe:
    """The shipped config nearest to ``model``, and the overrides that make it fit."""
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
    """Read, convert and write; returns what to tell the user.

    Raises:
        ValueError: a file that cannot be read safely or weights that do not fit.
        FileExistsError: the output is there already.
    """
    if args.output.exists() and not args.overwrite:
        raise FileExistsError(f"{args.output} exists; --overwrite replaces it")
    file = read_mmdet_file(args.input, trust=args.trust)
    model = describe_mmdet(file.state)
    norm_mask = is_norm_mask(args.mask, file.config, args.input.name)
    recipe = recipe_for(model, norm_mask)
    cfg = load_config(str(ROOT / recipe.config), recipe.overrides)
    with torch.device("meta"):
        ours = instantiate(cfg.model)
    weights = convert_mmdet(file.state, ours.state_dict())
    of_lvis = model.num_classes == 1203  # of other data the classes are not known
    metadata = class_metadata(cfg.dataloader.test.dataset.names, ours) if of_lvis else {}
    save_weights(args.output, weights, metadata, __author__="mmdet, converted by d2_seesaw")
    return report(args.output, model, norm_mask, recipe, len(weights))


def report(
    output: Path, model: MmdetModel, norm_mask: bool, recipe: Recipe, num_tensors: int
) -> str:
    """What was written, and how to go on."""
    kind = "Cascade Mask R-CNN" if model.cascade else "Mask R-CNN"
    command = ["python train_net.py --eval-only --config-file", recipe.config]
    command += [f"train.init_checkpoint={output}", *recipe.overrides]
    lines = [
        f"{output}: {kind} R-{model.depth}, {'Seesaw Loss' if model.seesaw else 'softmax'}, "
        f"{model.num_classes} classes, {'normalised' if norm_mask else 'plain'} mask predictor, "
        f"{num_tensors} tensors",
        f"config: {recipe.config}",
        f"evaluate: {' '.join(command)}",
    ]
    if model.num_classes != 1203:
        lines.append("for data of your own also give dataloader.test.dataset.names=NAME")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line's entry."""
    args = argument_parser().parse_args(arguments)
    try:
        print(convert(args))
    except (ValueError, OSError) as error:
        sys.exit(f"convert_mmdet.py: {error}")


if __name__ == "__main__":
    main()
