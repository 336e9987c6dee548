"""The command line and the config of a training: what is checked before anything is built."""

import argparse
import os
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from d2_seesaw.checkpoint.pretrained import is_backbone_address
from d2_seesaw.cli.train import dry_run
from d2_seesaw.cli.train.training import check_start
from d2_seesaw.data import check_dataset_files
from d2_seesaw.data.saved_datasets import register_saved_datasets
from d2_seesaw.engine import check_trackers, load_config
from d2_seesaw.engine.config import TOP_LEVEL, parse_override
from d2_seesaw.engine.launch import check_numbers
from d2_seesaw.engine.values import shorten
from d2_seesaw.inference.class_names import check_class_names_of_splits

# Keys that a config needs to be evaluated, and to be trained.
EVALUATED = ("dataloader", "model", "train")
TRAINED = (*EVALUATED, "lr_multiplier", "optimizer")
# Parts that an evaluation builds.
EVALUATED_PARTS = ("model", "dataloader.test", "dataloader.evaluator")
_KINDS = {"DIR": "folder", "FILE": "file"}


def check_arguments(
    parser: argparse.ArgumentParser, args: argparse.Namespace, arguments: Sequence[str]
) -> None:
    """Check the flags and the form of the overrides, before any file is read or written.

    Args:
        parser: the parser.
        args: the parsed arguments.
        arguments: the arguments as given.

    Raises:
        ValueError: flags that do not fit together, a flag behind the overrides, an argument that is
            not an override, or an override that cannot be read.
    """
    _check_flags(args)
    check_numbers(args)
    for position, text in enumerate(args.opts):
        if "=" not in text and not text.startswith(("-", "~")):
            flags = arguments[: len(arguments) - len(args.opts)]
            raise ValueError(_stray(parser, flags, args.opts[position:], is_first=position == 0))
        parse_override(text)


def _stray(
    parser: argparse.ArgumentParser, flags: Sequence[str], rest: Sequence[str], *, is_first: bool
) -> str:
    """Return the message for ``rest[0]``, which is neither a flag's value nor an override."""
    places = [index for index, text in enumerate(flags) if text.startswith("--")]
    if is_first and places:
        flag, is_joined, value = flags[places[-1]].partition("=")
        values = [value] if is_joined else flags[places[-1] + 1 :]
        action = parser._option_string_actions.get(flag)
        if action is not None and action.nargs is None and values:
            ends = (i for i, text in enumerate(rest) if "=" in text or text.startswith("-"))
            given = " ".join([*values, *rest[: next(ends, len(rest))]])
            kind = _KINDS.get(str(action.metavar), "value")
            return f"{flag} takes one {kind}, got {shorten(given)}"
    return (
        f"unexpected argument {shorten(rest[0])!r}: expected KEY=VALUE behind the flags, such as "
        "train.max_iter=1000"
    )


def read_config(args: argparse.Namespace) -> DictConfig:
    """Load the config, apply the overrides and check both before anything is built.

    Raises:
        ValueError: an unknown key or dataset, a number of classes that differs from the dataset's,
            a missing length or checkpoint, flags that do not fit together or the config, or a
            tracker whose package is not installed.
        FileNotFoundError: the config file, the dataset or the checkpoint does not exist.
    """
    if not args.config_file:
        raise ValueError("--config-file is missing, or --data for own data")
    _check_flags(args)
    parts = (*EVALUATED_PARTS, "tta") if args.eval_only else TOP_LEVEL
    cfg = load_config(args.config_file, args.opts, trust=args.trust, parts=parts)
    register_saved_datasets(args.config_file)
    needed = EVALUATED if args.eval_only else TRAINED
    missing = [part for part in needed if part not in cfg]
    if missing:
        raise ValueError(
            f"{args.config_file} has no {', '.join(missing)}: start from a shipped config"
        )
    if is_overridden(args, "train.epochs") and not is_overridden(args, "train.max_iter"):
        cfg.train.max_iter = None  # that of the config would take precedence
    if cfg.train.max_iter is None and cfg.train.epochs is None:
        raise ValueError("give train.max_iter (steps) or train.epochs, both are null")
    if args.eval_only:
        find_evaluated(cfg, args)
        _check_tta(cfg, args)
    else:
        check_trackers(cfg)
    splits = ["test"] if args.eval_only else ["train", "test"]
    names = [OmegaConf.select(cfg, f"dataloader.{split}.dataset.names") for split in splits]
    check_dataset_files([name for name in names if name is not None])
    if not args.resume:  # when resuming, the initial checkpoint may have been deleted
        check_start(cfg, eval_only=args.eval_only)
    check_class_names_of_splits(cfg, eval_only=args.eval_only)
    return cfg


def find_evaluated(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Let ``--eval-only`` evaluate the finished model of the output folder if none is named.

    The weights of a backbone, and a detector whose classes are transferred, are what a training
    starts from. They are not evaluated.

    Raises:
        ValueError: there is no trained model, with what to give.
    """
    start = cfg.train.init_checkpoint or ""
    is_given = is_overridden(args, "train.init_checkpoint")
    is_backbone = is_backbone_address(start)
    if start and not is_backbone and (is_given or not cfg.train.class_transfer):
        return
    finished = os.path.join(cfg.train.output_dir, "model_final.pth")
    if not is_given and os.path.isfile(finished):
        cfg.train.init_checkpoint = finished
        return
    reasons = [] if is_given else [f"there is no {finished}"]
    if start:
        what = "has a backbone alone" if is_backbone else "is where train.class_transfer starts"
        reasons.append(f"{start} {what}")
    raise ValueError(
        "--eval-only needs train.init_checkpoint=MODEL.pth, a trained model"
        f"{': ' * bool(reasons)}{', and '.join(reasons)}"
    )


def is_overridden(args: argparse.Namespace, key: str) -> bool:
    """Return whether the command line sets a key of the config."""
    return any(option.startswith(f"{key}=") for option in args.opts)


def _check_flags(args: argparse.Namespace) -> None:
    dry_run.check_flags(args)
    if args.restart and (args.resume or args.eval_only):
        other = "--resume" if args.resume else "--eval-only"
        raise ValueError(f"--restart moves the earlier training aside; leave out {other}")
    if args.no_calibration and not args.eval_only:
        raise ValueError("--no-calibration needs --eval-only: training never calibrates")
    if args.tta and not args.eval_only:
        raise ValueError("--tta needs --eval-only: evaluation during training is plain")


def _check_tta(cfg: DictConfig, args: argparse.Namespace) -> None:
    if args.tta and "tta" not in cfg:
        raise ValueError(
            f"--tta needs the views in the config, but {args.config_file} has no `tta`. "
            "configs/common/tta.py has examples"
        )
