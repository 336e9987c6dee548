"""Write a trained model as TorchScript or ONNX, and check it against the model.

The output folder receives model.torchscript, model.onnx, or both, and export.json with the names
and ids of the classes, the input and the outputs. Each file is loaded again and compared with the
model on three of the given images, and on a part of one, which has another size: boxes, classes,
scores and masks. It is kept only if they agree. A calibration of the checkpoint is exported unless
--no-calibration is given. Test-time augmentation is not exported. docs/export.md lists the models
that can be exported, and shows how to run the files without this project.

Examples:
  d2-seesaw export output/quickstart/seesaw/model_final.pth --images images/ --output exported
  d2-seesaw export model_final.pth --images a.jpg b.jpg c.jpg --output exported --format onnx
"""

import argparse
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2_seesaw.cli import add_trust, command_parser, errors_in_one_line, say
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.inference import calibration_of, find_sources, load_predictor
from d2_seesaw.inference.export import (
    ONNX_NEWEST,
    ONNX_OPSET,
    OUTPUTS,
    TraceableModel,
    export_onnx,
    export_torchscript,
    load_onnx,
    load_torchscript,
    require_onnx,
)
from d2_seesaw.inference.export_comparison import ExportError, Outputs, compare
from d2_seesaw.inference.predictor import Predictor
from d2_seesaw.layers import Calibration
from d2_seesaw.utils.files import write_text

FORMATS = ("torchscript", "onnx")
FILES = (*(f"model.{kind}" for kind in FORMATS), "export.json")
IMAGES_CHECKED = 3
_PACKAGES = ("torch", "torchvision", "detectron2", "d2_seesaw", "onnx", "onnxruntime")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("export", __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint of `d2-seesaw train`")
    add(
        "--images",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images or folders with objects that the model knows, to check the result with",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--format", nargs="+", choices=FORMATS, default=list(FORMATS), help="default: both")
    add("--config-file", metavar="FILE", help="default: config.yaml beside the checkpoint")
    add(
        "--opset",
        type=int,
        choices=range(ONNX_OPSET, ONNX_NEWEST + 1),
        default=ONNX_OPSET,
        metavar="N",
        help=f"operators of ONNX, {ONNX_OPSET} to {ONNX_NEWEST}; default: {ONNX_OPSET}",
    )
    add("--no-calibration", action="store_true", help="leave out the calibration of the checkpoint")
    add("--overwrite", action="store_true", help="replace the files of an earlier export")
    add_trust(parser)
    return parser


def export(args: argparse.Namespace) -> None:
    """Write the files, and print how each compares with the model.

    Raises:
        ValueError: the checkpoint, its config or an image cannot be read, a model cannot be
            exported, or an exported model differs from it.
        OSError: a file does not exist, or cannot be written.
    """
    if "onnx" in args.format:
        require_onnx()
    sources = [s for s in find_sources(args.images, args.output) if not s.is_video]
    if not sources:
        raise ValueError("--images needs pictures: videos are not read")
    _check_output(args.output, overwrite=args.overwrite)
    predictor = load_predictor(
        args.checkpoint,
        config_file=args.config_file and find_config(args.config_file),
        device="cpu",
        trust=args.trust,
        calibrated=not args.no_calibration,
    )
    calibration = calibration_of(predictor.model)
    if calibration is not None:
        say(f"calibration, exported: {calibration}")
    model = TraceableModel(predictor.model)
    paths = [s.path for s in sources[:IMAGES_CHECKED]]
    images = [predictor.inputs(path)["image"] for path in paths]
    # A trace could have kept the size of the images.
    height, width = images[0].shape[1:]
    images.append(images[0][:, : height - height // 4, : width - width // 3])
    names = _output_names(model, images, [*map(str, paths), f"a part of {paths[0]}"])
    checks, failures = _write_all(args, model, names, images)
    if checks:
        about = _description(predictor, names, checks, calibration)
        text = json.dumps(about, indent=1, ensure_ascii=False)
        write_text(args.output / "export.json", text + "\n")
        classes = len(predictor.class_names)
        say(f"{args.output / 'export.json'}: input, outputs and {classes} classes")
    if failures:
        raise ValueError("; ".join(failures))


def _write_all(
    args: argparse.Namespace, model: TraceableModel, names: list[str], images: list[Tensor]
) -> tuple[dict[str, str], list[str]]:
    """Write the formats that agree with the model; return the comparisons and the failures."""
    args.output.mkdir(parents=True, exist_ok=True)
    checks, failures = {}, []
    for kind in dict.fromkeys(args.format):
        path = args.output / f"model.{kind}"
        try:
            checks[path.name] = _write_checked(kind, path, model, names, images, args.opset)
        except ExportError as error:
            failures.append(f"{path} was not written: {error}")
            continue
        say(f"{path} ({path.stat().st_size / 1e6:.1f} MB): {checks[path.name]}")
    for name in FILES:  # of an earlier export
        if name not in checks:
            (args.output / name).unlink(missing_ok=True)
    return checks, failures


def _write_checked(
    kind: str,
    path: Path,
    model: TraceableModel,
    names: list[str],
    images: list[Tensor],
    opset: int,
) -> str:
    """Write a file that agrees with the model, or none; return the comparison as text."""
    unchecked = path.with_name(f"{path.name}.unchecked")
    try:
        exported: Callable[[Tensor], Outputs]
        if kind == "onnx":
            export_onnx(model, unchecked, images[0], opset=opset)
            exported = load_onnx(unchecked)
        else:
            export_torchscript(model, unchecked, images[0])
            exported = load_torchscript(unchecked, names)
        comparison = compare(model, exported, images)
        comparison.check()
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    return comparison.text()


def _check_output(folder: Path, *, overwrite: bool) -> None:
    used = [n for n in FILES if (folder / n).exists()]
    if used and not overwrite:
        raise ValueError(
            f"{folder} has {', '.join(used)} of an earlier export: choose another --output, or "
            "--overwrite replaces them"
        )


def _output_names(model: TraceableModel, images: list[Tensor], paths: list[str]) -> list[str]:
    """Run the model once on each image; return the names of its outputs."""
    names: list[str] = []
    for image, path in zip(images, paths, strict=True):
        try:
            with torch.no_grad():
                names = list(model(image))
        except RuntimeError as error:
            size = " x ".join(map(str, image.shape[1:]))
            raise ValueError(
                f"the model cannot run on {path}, which has {size} pixels after resizing: "
                f"{str(error).splitlines()[0]}"
            ) from error
    return names


def _description(
    predictor: Predictor,
    names: list[str],
    checks: dict[str, str],
    calibration: Calibration | None,
) -> dict[str, Any]:
    return {
        "class_names": predictor.class_names,
        "category_ids": predictor.category_ids,
        "input": {
            "image": f"(3, H, W) uint8, {predictor.image_format}, values from 0 to 255",
            "resizing": [str(t) for t in _transforms(predictor.augmentations)],
        },
        "outputs": {name: OUTPUTS[name] for name in names},
        "calibration": None if calibration is None else str(calibration),
        "checked": checks,
        "versions": {package: v for package in _PACKAGES if (v := _version(package))},
    }


def _transforms(augmentations: Any) -> list[Any]:
    inner = getattr(augmentations, "augs", None)
    return [augmentations] if inner is None else [t for part in inner for t in _transforms(part)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main(arguments: list[str] | None = None) -> None:
    """Export the model and print what was written."""
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line("export"):
        try:
            export(args)
        except ImportError as error:
            raise ValueError(str(error)) from error
