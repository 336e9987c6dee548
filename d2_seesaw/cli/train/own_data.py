"""Training on own data: ``--data`` chooses a config and writes it before the training starts."""

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from omegaconf import DictConfig, OmegaConf

from d2_seesaw.checkpoint.run_folder import check_config_is_saved
from d2_seesaw.checkpoint.torchvision_weights import PREFIX, download_weights, find_weights
from d2_seesaw.cli import say
from d2_seesaw.cli.train.own_data_check import checked_data
from d2_seesaw.cli.train.own_data_files import write_checked
from d2_seesaw.cli.train.reading import find_evaluated
from d2_seesaw.cli.train.start import read_start
from d2_seesaw.cli.train.training import check_checkpoint_file
from d2_seesaw.data.annotations.image_groups import match_names
from d2_seesaw.data.annotations.reader import content_hash, read_annotations
from d2_seesaw.engine import load_config, load_part
from d2_seesaw.engine.config import apply_overrides, parse_override
from d2_seesaw.engine.launch import check_ranks, torch_device
from d2_seesaw.engine.values import check_values
from d2_seesaw.own_data import (
    Machine,
    choices_text,
    choose,
    choose_base,
    config_text,
    measure,
    recipe_of,
)
from d2_seesaw.own_data.config_file import NAME
from d2_seesaw.own_data.heads import LOSSES, SEESAW
from d2_seesaw.own_data.identity import WrittenData, is_same_path
from d2_seesaw.own_data.recipes import Choice, base_name
from d2_seesaw.own_data.split_files import parts_undone_at_errors
from d2_seesaw.utils.folder_lock import check_folder_is_free

DEFAULT_FOLDER = "output/own_data"
_NO_WEIGHTS = ("", "null")
_POSITION = re.compile(r"[^=]*\.\d+(\.|=)")
_LOSSES = "common/heads/classification"


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training on own data."""
    group = parser.add_argument_group("own data")
    group.add_argument(
        "--data",
        nargs="+",
        metavar=("TRAIN.json", "VAL.json"),
        help="annotations of own data in COCO or LVIS format: check them, choose a config from "
        "them, write it to OUTPUT/own_data.py and train. A single file is split by image. "
        "--config-file is then own_data/cpu, own_data/one_gpu or own_data/eight_gpus; by default "
        "the one for this machine",
    )
    group.add_argument("--images", metavar="DIR", help="folder of the images of both files")
    group.add_argument(
        "--group-by",
        metavar="REGEX",
        help="with a single file: images with the same match in their file name stay in one part, "
        "such as '^[^/]+' for a folder of video frames or tiles",
    )
    group.add_argument("--output", metavar="DIR", help=f"output folder; default: {DEFAULT_FOLDER}")
    group.add_argument(
        "--loss", choices=LOSSES, help=f"classification loss, see docs/losses.md; default: {SEESAW}"
    )
    group.add_argument(
        "--choose-only", action="store_true", help="write the config, and do not train"
    )
    group.add_argument(
        "--from-scratch", action="store_true", help="train without pretrained weights"
    )


def choose_own_data(args: argparse.Namespace, arguments: Sequence[str]) -> bool:
    """Write the config for ``--data``, or find the one written before; make it the config to train.

    A file that exists is used as it is. With ``--restart`` it gets another name and a new one is
    written.

    Args:
        args: the parsed arguments. ``config_file`` and ``num_gpus`` are set.
        arguments: the arguments as given.

    Returns:
        Whether the config is to be trained or evaluated now.

    Raises:
        ValueError: flags that do not belong together, errors in the data, or an existing file for
            other data.
        OSError: files cannot be read or written.
    """
    if args.data is None:
        _refuse_other_flags(args)
        return True
    _check_flags(args)
    args.from_scratch = _is_from_scratch(args)
    folder = Path(_output_folder(args))
    path = folder / NAME
    processes = max(1, args.num_gpus) if _is_given(arguments, "--num-gpus") else None
    if not args.eval_only:
        check_folder_is_free(str(folder))
        check_config_is_saved(folder)
    if path.exists() and not args.restart:
        args.num_gpus = _existing(args, path, processes)
    else:
        base, args.num_gpus, machine = choose_base(
            Machine.here(), args.config_file or None, processes
        )
        _check_overrides(args, base, folder)
        with parts_undone_at_errors(path):
            write_checked(args, path, _chosen(args, folder, base, machine))
        say(f"Written to {path}, which you may edit; key=value on the command line goes first")
    args.config_file = str(path)
    if args.choose_only:
        processes = ["--num-gpus", str(args.num_gpus)]
        command = ["d2-seesaw", "train", "--config-file", str(path), *processes, *args.opts]
        say(f"Train with: {shlex.join(command)}")
    return not args.choose_only


def _refuse_other_flags(args: argparse.Namespace) -> None:
    given = {
        "--images": args.images,
        "--group-by": args.group_by,
        "--output": args.output,
        "--loss": args.loss,
        "--choose-only": args.choose_only,
        "--from-scratch": args.from_scratch,
    }
    for flag, value in given.items():
        if value:
            raise ValueError(f"{flag} needs --data TRAIN.json VAL.json")


def _check_flags(args: argparse.Namespace) -> None:
    if not args.images:
        raise ValueError("--data needs --images DIR, the folder of the images")
    if len(args.data) > 2:
        raise ValueError(
            f"--data takes TRAIN.json and VAL.json, or one file to split, got {len(args.data)} "
            "files; KEY=VALUE arguments stand behind all flags"
        )
    _check_pattern(args)
    for file in args.data:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"--data {file}: there is no such file")
    if not os.path.isdir(args.images):
        raise FileNotFoundError(f"--images {args.images}: there is no such folder")
    output_dirs = _overrides(args, "train.output_dir")
    if args.output and output_dirs and not is_same_path(args.output, output_dirs[-1]):
        raise ValueError(
            f"--output {args.output} and train.output_dir={output_dirs[-1]} contradict: leave out "
            "one"
        )
    if "TORCHELASTIC_RUN_ID" in os.environ or args.num_machines > 1:
        raise ValueError(
            "--data chooses in one process: call it with --choose-only first, then start all "
            f"processes with --config-file OUTPUT/{NAME}"
        )


def _check_pattern(args: argparse.Namespace) -> None:
    if args.group_by is None:
        return
    if len(args.data) > 1:
        raise ValueError(f"--group-by {args.group_by} splits a single file, got two --data files")
    match_names([], args.group_by)


def _check_overrides(args: argparse.Namespace, base: str, folder: Path) -> None:
    """Check overrides and machine as far as the base config allows, before data are read.

    Raises:
        ValueError: an override that no choice makes valid, a machine that the flags do not fit, or
            an evaluation without a model.
    """
    cfg = _overridden(args, base, folder)
    check_values(cfg)
    if args.eval_only:
        find_evaluated(cfg, args)
    if not args.choose_only:  # the training may be on another machine
        check_ranks(args)
        torch_device(cfg.train.device)


def _overridden(args: argparse.Namespace, base: str, folder: Path) -> DictConfig:
    """Return the base config with the overrides that fit it whatever is chosen."""
    cfg = load_config(base)
    if args.loss:
        cfg.model.roi_heads.box_predictor.update(load_part(_LOSSES)[args.loss])
    cfg.train.output_dir = str(folder)
    # The lengths of lists are chosen, so a position such as sizes.4 is checked with the choices.
    apply_overrides(cfg, [text for text in args.opts if not _POSITION.match(text)])
    return cfg


def _is_given(arguments: Sequence[str], flag: str) -> bool:
    return any(argument.partition("=")[0] == flag for argument in arguments)


def _overrides(args: argparse.Namespace, key: str) -> list[str]:
    """Return the values that the command line gives a key."""
    options = [option.partition("=") for option in args.opts]
    return [value for name, _, value in options if name == key]


def _output_folder(args: argparse.Namespace) -> str:
    return args.output or [DEFAULT_FOLDER, *_overrides(args, "train.output_dir")][-1]


def _existing(args: argparse.Namespace, path: Path, processes: int | None) -> int:
    """Check that a file written before fits the flags; return the number of processes."""
    cfg = load_config(str(path))
    train, val = (_registered(cfg.dataloader[split].dataset.names) for split in ("train", "test"))
    written = WrittenData.of(path, train.get("json_file"), val.get("json_file"))
    images = [data.get("image_root") for data in (train, val)]
    base = re.search(r'= load_config\("(own_data/\w+)"\)', path.read_text(encoding="utf-8"))
    if not written.is_of(args.data):
        other = f"{written.text(args.data)}, not for {' and '.join(args.data)}"
    elif args.group_by not in (None, written.group_by):
        other = f"a split by {written.group_by or 'image'}, not for --group-by {args.group_by}"
    elif not all(is_same_path(args.images, folder) for folder in images):
        other = f"the images in {' and '.join(sorted(set(map(str, images))))}, not {args.images}"
    elif args.from_scratch and cfg.train.init_checkpoint:
        other = f"a start from {cfg.train.init_checkpoint}, not for --from-scratch"
    elif args.config_file and base and base[1] != base_name(args.config_file):
        other = f"{base[1]}, not for --config-file {args.config_file}"
    elif not is_same_path(str(path.parent), cfg.train.output_dir):
        other = f"the folder {cfg.train.output_dir}"
    elif args.loss and not _has_loss(cfg, args.loss):
        other = f"another loss than {args.loss}"
    else:
        kept = f"{path} exists and is used as it is, edits included; --restart chooses anew"
        say("\n".join([kept, *written.caveats(args.data)]))
        return cfg.train.reference_world_size if processes is None else processes
    raise ValueError(
        f"{path} was written for {other}: choose another --output, or --restart to choose anew"
    )


def _registered(name: object) -> Metadata:
    return MetadataCatalog.get(name) if isinstance(name, str) else Metadata()


def _has_loss(cfg: DictConfig, loss: str) -> bool:
    """Return whether classifier and loss of a config are those of the part with this name."""
    part, predictor = (
        load_part(_LOSSES)[loss],
        cfg.model.roi_heads.box_predictor,
    )
    found, wanted = (
        {key: OmegaConf.to_container(node[key], resolve=False) for key in part}
        for node in (predictor, part)
    )
    return found == wanted


def _chosen(args: argparse.Namespace, folder: Path, base: str, machine: Choice) -> str:
    """Check and measure the data, print the choices and return the text of the config."""
    cfg = load_config(base)
    cfg.train.init_checkpoint = _weights(args, cfg.train.init_checkpoint)
    data = checked_data(args.data, args.images, folder, args.group_by)
    contents = [content_hash(file) for file in (data.train_file, data.val_file)]
    measures = measure(read_annotations(data.train_file, for_training=True))
    evaluated = read_annotations(data.val_file)
    recipe = recipe_of(base, cfg, args.num_gpus)
    if os.path.isfile(recipe.weights):
        start, author = read_start(recipe.weights, _overridden(args, base, folder).model)
        recipe = replace(
            recipe,
            start=start,
            starts_from_detector=start is not None,
            has_zoo_input=recipe.has_zoo_input and author != "torchvision",
        )
    given = {key: value for key, value, _ in map(parse_override, args.opts)}
    chosen = choose(
        measures,
        recipe,
        len(evaluated.images),
        evaluated_masks=bool(evaluated.has_segmentation.any()),
        from_scratch=args.from_scratch,
        loss=args.loss or SEESAW,
        given=given,
    )
    choices = [machine, *chosen]
    say(f"\nThe training data:\n{_indented(measures.text())}")
    say(f"\nChosen from them:\n{choices_text(choices)}\n")
    is_boxes_only = not measures.has_masks
    return config_text(
        *(folder, data, base, choices, measures.text()),
        boxes_only=is_boxes_only,
        contents=contents,
    )


def _is_from_scratch(args: argparse.Namespace) -> bool:
    """Return whether training starts from random weights: by the flag or an empty checkpoint."""
    given = [value.strip("\"'") for value in _overrides(args, "train.init_checkpoint")]
    if not given or args.eval_only:
        return args.from_scratch
    if args.from_scratch and given[-1] not in _NO_WEIGHTS:
        raise ValueError(
            f"--from-scratch and train.init_checkpoint={given[-1]} contradict: leave out one"
        )
    return given[-1] in _NO_WEIGHTS


def _weights(args: argparse.Namespace, default: str) -> str:
    """Return the pretrained weights of the command line or of the base config, which exist."""
    given = _overrides(args, "train.init_checkpoint")
    if args.from_scratch:
        return ""
    if args.eval_only:  # the architecture is that of a training that started by default
        return default
    weights = given[-1].strip("\"'") if given else default
    if weights.startswith(PREFIX):
        check_weights(weights)
    check_checkpoint_file(weights)
    return os.path.abspath(weights) if os.path.isfile(weights) else weights


def check_weights(name: str) -> None:
    """Find, or download, the pretrained weights before anything else is done.

    Raises:
        FileNotFoundError: they cannot be had, with the way to train without them.
    """
    weights = name.removeprefix(PREFIX)
    try:
        if find_weights(weights) is None:
            download_weights(weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, or train without them: --from-scratch") from error


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines()).rstrip()
