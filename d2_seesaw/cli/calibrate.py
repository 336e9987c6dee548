r"""Calibrate the scores of a trained detector for the long tail, without training it again.

Acts on the scores of all classes of every RoI, before threshold and suppression. Methods: norcal
(scores divided by N_c^gamma, then normalized), logit-adjustment (logits minus tau times the log
prior), temperature (one for rare, common and frequent classes) and tau-norm (classifier weights
divided by their norm to the power tau). Parameters are given, or fitted on the training split or on
--dataset, never on the test split of the config: gamma and tau by the AP of boxes on a grid,
temperatures by the negative log-likelihood of labeled RoIs.

Writes a checkpoint with the same weights and the calibration, which `d2-seesaw train --eval-only`,
`predict` and test-time augmentation then apply; their --no-calibration leaves it out. With
--results, saved detections are calibrated instead, which is an approximation.

Examples:
  d2-seesaw calibrate output/run/model_final.pth --method norcal
  d2-seesaw calibrate model.pth --method norcal --gamma 0.6 --output calibrated.pth
  d2-seesaw calibrate model.pth --method temperature --fraction 0.1 --config-file my_config.py
  d2-seesaw calibrate --results results.json --method norcal --gamma 0.6 \
      --train-annotations train.json --output calibrated.json
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from d2_seesaw.checkpoint import (
    CALIBRATION,
    StrictCheckpointer,
    check_class_names,
    number_of_classes,
    save_weights,
)
from d2_seesaw.cli import add_trust, command_parser, count, errors_in_one_line, say, seed
from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.data.class_counts import UNITS
from d2_seesaw.data.saved_datasets import register_saved_datasets
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.evaluation.predictions.files import RESULTS, write_results
from d2_seesaw.evaluation.predictions.results_file import ResultsFile
from d2_seesaw.inference.calibration import (
    GRID,
    MAX_ROIS,
    MatchedClasses,
    calibrate_detections,
    choose_images,
    fit_calibration,
    groups_of,
    match_classes,
    score_structure,
    training_counts,
)
from d2_seesaw.inference.calibration.attaching import attach_calibration, detach_calibration
from d2_seesaw.inference.class_names import trained_classes
from d2_seesaw.inference.predictor import build_for_inference, build_part, load_run_config
from d2_seesaw.layers import Calibration
from d2_seesaw.layers.calibration import PARAMETERS, STRUCTURES

_FITTING: dict[str, Any] = {
    "dataset": None,
    "fraction": 0.1,
    "seed": 0,
    "grid": GRID,
    "max_rois": MAX_ROIS,
    "num_workers": 0,
}
"""Options of the fit with their defaults."""

_SUFFIXES = (".pth", ".safetensors")
APPROXIMATION = (
    "approximation: saved results have only the scores above a threshold. The rest of each score "
    "is taken for background. `d2-seesaw calibrate CHECKPOINT` is exact"
)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("calibrate", __doc__)
    add = parser.add_argument
    add("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT", help="of `d2-seesaw train`")
    add("--results", type=Path, metavar="FILE", help="calibrate saved detections, approximately")
    add("--method", required=True, metavar="METHOD", help=f"one of {', '.join(PARAMETERS)}")
    add("--gamma", type=float, help="exponent of norcal; fitted if not given")
    add("--tau", type=float, help="strength of logit-adjustment or tau-norm; fitted if not given")
    add(
        "--temperatures",
        type=float,
        nargs=3,
        metavar=("RARE", "COMMON", "FREQUENT"),
        help="fitted if not given",
    )
    add("--output", type=Path, metavar="FILE", help="default: CHECKPOINT_calibrated.pth")
    add("--overwrite", action="store_true", help="replace the output if it exists")
    add("--config-file", metavar="FILE", help="default: config.yaml beside the checkpoint")
    add_trust(parser)
    add("--device", help="default: the GPU if there is one, else the CPU")
    fitting = parser.add_argument_group("fitting")
    add = fitting.add_argument
    add("--dataset", metavar="NAME", help="registered split to fit on; default: the training split")
    add("--fraction", type=float, help="share of its images; default: 0.1")
    add("--seed", type=seed, help="seed of the choice of images; default: 0")
    add("--grid", type=float, nargs="+", help="values of gamma or tau to try")
    add("--max-rois", type=count, metavar="N", help=f"default: {MAX_ROIS}")
    add("--num-workers", type=int, metavar="N", help="loading processes; default: 0")
    classes = parser.add_argument_group("classes")
    add = classes.add_argument
    add("--counts", choices=UNITS, help="N_c counts these; default: images")
    add("--structure", choices=STRUCTURES, help="of the scores; default: that of the loss")
    add("--train-annotations", metavar="FILE", help="with --results: file to count classes in")
    add(
        "--predicted-images",
        metavar="FILE",
        help="with --results of `d2-seesaw predict`: its images.json; default: the one beside them",
    )
    return parser


def given_parameters(args: argparse.Namespace) -> dict[str, float] | None:
    """Return the parameters of the command line; None if they are to be fitted.

    Raises:
        ValueError: an unknown method, or a parameter of another method.
    """
    if args.method not in PARAMETERS:
        raise ValueError(f"unknown --method {args.method!r}, expected one of {list(PARAMETERS)}")
    names = PARAMETERS[args.method]
    given = {"gamma": args.gamma, "tau": args.tau}
    if args.temperatures is not None:
        given |= dict(zip(PARAMETERS["temperature"], args.temperatures, strict=True))
    given = {name: value for name, value in given.items() if value is not None}
    if other := [name for name in given if name not in names]:
        raise ValueError(f"{other[0]} is not a parameter of {args.method}, which has {list(names)}")
    return given or None


def refuse_unused(args: argparse.Namespace, parameters: dict[str, float] | None) -> None:
    """Refuse options that would have no effect, and set the others to their defaults.

    Raises:
        ValueError: some have none; the message names them.
    """
    of_method = {
        "temperature": ("grid", "counts"),
        "tau-norm": ("max_rois", "counts", "structure"),
    }
    unused: dict[str, Sequence[str]] = {}
    if args.results is not None:
        unused["--results"] = (*_FITTING, "structure", "config_file", "trust", "device")
    else:
        unused["a checkpoint"] = ("train_annotations", "predicted_images")
    if parameters is not None:
        unused["given parameters"] = tuple(_FITTING)
    unused[f"--method {args.method}"] = of_method.get(args.method, ("max_rois",))
    for reason, names in unused.items():
        given = [n for n in names if not any(getattr(args, n) is v for v in (None, False))]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            have = "have" if given[1:] else "has"
            raise ValueError(f"{flags} {have} no effect with {reason}: leave out what is not used")
    for name, value in {**_FITTING, "counts": "images", "device": "auto"}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def calibrate_checkpoint(args: argparse.Namespace, parameters: dict[str, float] | None) -> str:
    """Write the calibrated checkpoint; return the text to print.

    Raises:
        ValueError: the checkpoint cannot be read or calibrated, or the split is evaluated.
        OSError: a file does not exist, exists already or cannot be written.
    """
    checkpoint: Path = args.checkpoint
    suffix = checkpoint.suffix if checkpoint.suffix in _SUFFIXES else _SUFFIXES[0]
    output = args.output or checkpoint.with_name(f"{checkpoint.stem}_calibrated{suffix}")
    check_output(output, checkpoint, overwrite=args.overwrite)
    if output.suffix not in _SUFFIXES:
        raise ValueError(f"--output must end with {' or '.join(_SUFFIXES)}, got {output}")
    config_file = args.config_file and find_config(args.config_file)
    cfg = load_run_config(checkpoint, config_file, trust=args.trust)
    register_saved_datasets(config_file or checkpoint.with_name("config.yaml"))
    model = build_for_inference(cfg, args.device)
    checkpointer = StrictCheckpointer(model, require_all=True, allow_partial=None)
    weights = dict(checkpointer.read(str(checkpoint))["model"])
    loaded = checkpointer.load(str(checkpoint))
    notes = []
    if CALIBRATION in loaded:
        notes.append(f"replaced: {Calibration.from_entry(loaded[CALIBRATION])}")
    train, test = (
        OmegaConf.select(cfg, f"dataloader.{s}.dataset.names") for s in ("train", "test")
    )
    if train is None:
        raise ValueError("the config names no training split to count classes in")
    structure = _structure(args, model, notes)
    trained = trained_classes(cfg, model, loaded)
    classes = _match(args, model, trained, train, notes)
    template, images = _template(args, train, classes, structure, parameters)
    _check_fits(model, template)
    if parameters is None:
        if args.dataset:
            classes = _match(args, model, trained, args.dataset, notes)
        split = choose_images(
            args.dataset or train, test, classes, fraction=args.fraction, seed=args.seed
        )
        options = {"grid": args.grid, "max_rois": args.max_rois, "num_workers": args.num_workers}
        mapper = build_part(cfg, "dataloader.test.mapper")
        fit = fit_calibration(model, template, split, mapper, images, **options)
        template = fit.calibration
        notes.append(fit.report)
    kept = {key: loaded[key] for key in ("iteration",) if key in loaded}
    if output.suffix == ".safetensors":
        kept = {}
    save_weights(output, weights, loaded.get("metadata"), calibration=template, **kept)
    return "\n".join([*notes, f"scores: {structure}", f"{output}: {template}"])


def check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    """Refuse an output that would replace its source or, without ``overwrite``, another file.

    Raises:
        FileExistsError: it would.
        IsADirectoryError: the output is a folder.
    """
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder: give the name of a file")
    if output.resolve() == source.resolve():
        raise FileExistsError(f"--output {output} is the input: choose another file")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; --overwrite replaces it")


def _structure(args: argparse.Namespace, model: Any, notes: list[str]) -> str:
    """Return the structure of the scores; note where --structure contradicts the loss."""
    try:
        found = score_structure(model)
    except ValueError:
        if not args.structure:
            raise
        return args.structure  # a model that cannot be calibrated is refused later
    if args.structure not in (None, found):
        notes.append(
            f"warning: --structure {args.structure} contradicts the loss, whose scores are {found}"
        )
    return args.structure or found


def _match(
    args: argparse.Namespace, model: Any, trained: Mapping[str, Any], names: Any, notes: list[str]
) -> MatchedClasses:
    """Find the classes of a dataset in those of the model; note what differs."""
    class_names = trained.get("class_names")
    source = f"checkpoint {args.checkpoint}"
    if class_names:
        if trained["dataset"] != "the checkpoint":
            source = trained["dataset"]
        check_class_names(trained, model, source)
    classes = match_classes(names, class_names, number_of_classes(model), source)
    if classes.message and classes.message not in notes:
        notes.append(classes.message)
    return classes


def _template(
    args: argparse.Namespace,
    train: Any,
    classes: MatchedClasses,
    structure: str,
    parameters: dict[str, float] | None,
) -> tuple[Calibration, np.ndarray]:
    """Return the calibration, neutral if it is to be fitted, and the training images by class."""
    images = training_counts(train, classes)
    counted = images if args.counts == "images" else training_counts(train, classes, of=args.counts)
    return _calibration(args.method, parameters, counted, images, structure), images


def _calibration(
    method: str,
    parameters: dict[str, float] | None,
    counts: np.ndarray,
    images: np.ndarray,
    structure: str,
) -> Calibration:
    neutral = 1.0 if method == "temperature" else 0.0
    return Calibration(
        method,
        parameters or dict.fromkeys(PARAMETERS[method], neutral),
        len(counts),
        structure,
        counts.tolist() if method in ("norcal", "logit-adjustment") else (),
        groups_of(images) if method == "temperature" else "",
        "given" if parameters else "",
    )


def _check_fits(model: Any, calibration: Calibration) -> None:
    """Fail before the images are read if the model cannot be calibrated in this way."""
    attach_calibration(model, calibration)
    detach_calibration(model)


def calibrate_results(args: argparse.Namespace, parameters: dict[str, float] | None) -> str:
    """Write calibrated detections; return the text to print.

    Raises:
        ValueError: parameters, counts or the output are missing, or a file has another format.
        OSError: a file does not exist, exists already or cannot be written.
    """
    missing = {
        "the parameters of the method, which cannot be fitted on results": parameters,
        "--train-annotations, to count the classes": args.train_annotations,
        "--output": args.output,
    }
    for what, value in missing.items():
        if value is None:
            raise ValueError(f"--results needs {what}")
    source = ResultsFile.find(args.results, args.predicted_images)
    note = _check_results_output(args, source)
    table = read_annotations(args.train_annotations)
    images = table.image_counts()
    counts = images
    if args.counts == "instances":
        counts = np.bincount(table.category[table.usable & ~table.crowd], minlength=len(images))
    calibration = _calibration(args.method, parameters, counts, images, "independent")
    detections = source.read()
    calibrated = calibrate_detections(detections, calibration, source.classes(table))
    write_results(str(args.output), calibrated)
    source.copy_images(args.output)
    given = replace(calibration, origin="given, approximate")
    return f"{APPROXIMATION}\n{args.output}: {len(calibrated)} detections, {given}{note}"


def _check_results_output(args: argparse.Namespace, source: ResultsFile) -> str:
    """Fail before anything is read if a file would be replaced; return a note on the result.

    Raises:
        FileExistsError: see ``check_output``.
        ValueError: the results of a prediction would seem to be those of an evaluation.
    """
    check_output(args.output, args.results, overwrite=args.overwrite)
    if source.images is None:
        return ""
    if args.output.name in RESULTS:
        raise ValueError(
            f"--output {args.output}: the image ids are those of {source.images}, and a file of "
            "this name is taken for the results of an evaluation: choose another name"
        )
    beside = source.images_beside(args.output)
    if beside is None:
        return f"\nto evaluate or draw it, add --predicted-images {source.images}"
    check_output(beside, source.images, overwrite=args.overwrite)
    return f"\n{beside}: the images of its detections"


def main(arguments: list[str] | None = None) -> None:
    """Calibrate a checkpoint or saved results, and print what was done."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    if args.checkpoint is None and args.results is None:
        parser.error("give a CHECKPOINT or --results FILE")
    if args.checkpoint is not None and args.results is not None:
        parser.error("give a CHECKPOINT or --results FILE, not both")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with errors_in_one_line("calibrate"):
        parameters = given_parameters(args)
        refuse_unused(args, parameters)
        run = calibrate_checkpoint if args.results is None else calibrate_results
        say(run(args, parameters))
