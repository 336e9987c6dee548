"""Write a trained model as TorchScript or ONNX, and check it against the model.

The output folder receives model.torchscript, model.onnx, or both, and export.json with the names
and ids of the classes, the input and the outputs. Each file is loaded again and compared with the
model on three of the given images, and on a part of one, which has another size: boxes, classes,
scores and masks. It is kept only if they agree.
Test-time augmentation is not exported. docs/export.md lists the models that can be exported, and
shows how to run the files without this project.

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

from d2_seesaw.cli import add_trust, command_parser, count, errors_in_one_line, say
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.inference import find_sources, load_predictor
from d2_seesaw.inference.export import (
    ONNX_OPSET,
    OUTPUTS,
    ExportError,
    Outputs,
    TraceableModel,
    compare,
    export_onnx,
    export_torchscript,
    load_onnx,
    load_torchscript,
    require_onnx,
)
from d2_seesaw.inference.predictor import Predictor
from d2_seesaw.utils.files import write_text

FORMATS = ("torchscript", "onnx")
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
    add("--opset", type=count, default=ONNX_OPSET, metavar="N", help=f"default: {ONNX_OPSET}")
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
    predictor = load_predictor(
        args.checkpoint,
        config_file=args.config_file and find_config(args.config_file),
        device="cpu",
        trust=args.trust,
    )
    model = TraceableModel(predictor.model)
    images = [predictor.inputs(s.path)["image"] for s in sources[:IMAGES_CHECKED]]
    # A trace could have kept the size of the images.
    images.append(images[0][:, : -images[0].shape[1] // 4, : -images[0].shape[2] // 3])
    with torch.no_grad():
        names = list(model(images[0]))
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
    if failures and not checks:
        raise ValueError("; ".join(failures))
    text = json.dumps(_description(predictor, names, checks), indent=1, ensure_ascii=False)
    write_text(args.output / "export.json", text + "\n")
    say(f"{args.output / 'export.json'}: input, outputs and {len(predictor.class_names)} classes")
    if failures:
        raise ValueError("; ".join(failures))


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


def _description(predictor: Predictor, names: list[str], checks: dict[str, str]) -> dict[str, Any]:
    return {
        "class_names": predictor.class_names,
        "category_ids": predictor.category_ids,
        "input": {
            "image": f"(3, H, W) uint8, {predictor.image_format}, values from 0 to 255",
            "resizing": [str(t) for t in _transforms(predictor.augmentations)],
        },
        "outputs": {name: OUTPUTS[name] for name in names},
        "checked": checks,
        "versions": {package: v for package in _PACKAGES if (v := _version(package))},
    }


def _transforms(augmentations: Any) -> list[Any]:
    return list(getattr(augmentations, "augs", [augmentations]))


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
