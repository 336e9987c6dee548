"""The command line: ``d2-seesaw COMMAND``, or ``python -m d2_seesaw COMMAND``.

A command is a module in this folder with a function ``main(arguments)``, which returns the exit
status. The module of ``import`` is ``import_``, because that name is a keyword, and a hyphen
becomes an underscore. A module is imported when its command is called, so that ``d2-seesaw --help``
and ``d2-seesaw env`` need neither PyTorch nor Detectron2.
"""

import argparse
import importlib
import keyword
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

from d2_seesaw import __version__
from d2_seesaw.utils.signals import ending_at_once
from d2_seesaw.utils.text import did_you_mean

COMMANDS = {
    "train": "train a config's model, or evaluate it with --eval-only",
    "evaluate": "score saved detections with the LVIS metrics",
    "report": "draw the long-tail report of an evaluation, or compare runs",
    "check": "check a dataset in COCO or LVIS format before training",
    "import": "import annotations of YOLO, Labelme, VOC and COCO exports",
    "convert": "convert a checkpoint of MMDetection",
    "draw": "draw ground truth and predictions side by side",
    "generate": "generate long-tailed instances, scenes or pictures",
    "calibrate": "calibrate the scores of a trained model for the long tail",
    "predict": "run a trained model on images, folders and videos",
    "export": "write a trained model as TorchScript or ONNX",
    "export-weights": "export trained weights for sharing, with a model card",
    "env": "print versions of packages and the origin of Detectron2",
}
EPILOG = """Examples:
  d2-seesaw generate instances
  d2-seesaw train --config-file CONFIG
  d2-seesaw train --help

`python -m d2_seesaw` is the same command."""


def command_parser(command: str, doc: str | None, **options: Any) -> argparse.ArgumentParser:
    """Return a parser without arguments that shows a docstring as its help.

    Args:
        command: the words behind ``d2-seesaw``.
        doc: docstring of the command's module, which ends with the section "Examples".
        options: passed on to ``argparse.ArgumentParser``.
    """
    description, _, examples = (doc or "").partition("\n\nExamples:\n")
    return argparse.ArgumentParser(
        prog=f"d2-seesaw {command}",
        description=description,
        epilog=f"Examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the flag with which a YAML config may name anything."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="build whatever the YAML config names, which can run any code: only for configs whose "
        "author you trust. A Python config is a program and needs no flag",
    )


def count(text: str) -> int:
    """Return a whole number of at least 1, for ``type`` of an argument."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def finite(text: str) -> float:
    """Return a finite number, for ``type`` of an argument."""
    if not math.isfinite(value := float(text)):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def seed(text: str) -> int:
    """Return a whole number from 0 to 2^63 - 1, for ``type`` of an argument.

    NumPy takes no negative seed, and PyTorch none of more than 64 bits.
    """
    if not 0 <= (value := int(text)) < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**63 - 1}, got {text}")
    return value


def add_image_options(parser: argparse.ArgumentParser, max_pixels: int) -> None:
    """Add the options that say which images of a folder are shown."""
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="show images behind links that lead out of the folder of images, too",
    )
    parser.add_argument(
        "--max-pixels",
        type=count,
        default=max_pixels,
        metavar="N",
        help=f"do not read larger images to show them; default: {max_pixels}",
    )


def module_of(command: str) -> str:
    """Return the name of the module of a command."""
    return f"d2_seesaw.cli.{command.replace('-', '_')}{'_' * keyword.iskeyword(command)}"


@contextmanager
def errors_in_one_line(command: str) -> Iterator[None]:
    """Turn an error in the user's input into one line on stderr and exit status 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"d2-seesaw {command}: {error}")


class RunError(RuntimeError):
    """Error that ends a run with its message in one line."""


@contextmanager
def ending_in_one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds into a :class:`RunError` with the same message."""
    try:
        yield
    except kinds as error:
        # The text of an error in a loading process is its traceback.
        _, _, message = str(error).rpartition(f"{type(error).__name__}: ")
        raise RunError(message.strip() or type(error).__name__) from error


def say(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="d2-seesaw",
        description="Long-tailed recognition for Detectron2.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"d2_seesaw {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        parser.error(f"unknown command {arguments[0]!r}{did_you_mean(arguments[0], COMMANDS)}")
    command = parser.parse_args(arguments[:1]).command  # the rest belongs to the command
    if not sys.stdout.isatty():
        os.environ.setdefault("NO_COLOR", "1")  # of Detectron2's log
    # Detectron2 uses torch.jit.script, which is deprecated.
    warnings.filterwarnings("ignore", r".*torch\.jit\.script", FutureWarning)
    with ending_at_once("d2-seesaw train") if command == "train" else nullcontext():
        return _module(command).main(arguments[1:]) or 0


def _module(command: str) -> ModuleType:
    try:
        if command != "env":
            importlib.import_module("d2_seesaw._requires_detectron2")
        return importlib.import_module(module_of(command))
    except ModuleNotFoundError as error:
        if (error.name or "d2_seesaw").partition(".")[0] == "d2_seesaw":
            raise
        sys.exit(f"d2-seesaw {command}: {error}")
