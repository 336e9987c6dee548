"""The config file of a training on own data, which its user may edit."""

import json
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_seesaw.own_data.recipes import Choice

NAME = "own_data.py"
_WIDTH = 100
_CONTENTS = "# The contents this was chosen for: `d2-seesaw train --data` refuses others."
_CONTENT = re.compile(r"^# SHA-256 ([0-9a-f]{64}) of (.+)$", re.MULTILINE)

_HEAD = '''"""Training on own data, written by `d2-seesaw train --data`. Edit it as you like.

    d2-seesaw train --config-file {path}

Later calls with the same --output use this file as it is.
{measures}
"""

import os

from d2_seesaw.data import register_longtail_instances
from d2_seesaw.engine import {functions}{imports}

_folder = os.path.dirname(os.path.abspath(__file__))
{contents}
register_longtail_instances(
    {train},
    json_file={train_file},
    image_root={images},
)
register_longtail_instances(
    {val},
    json_file={val_file},
    image_root={images},
    counts_from={train},  # decides which categories are rare, common and frequent
)

_cfg = load_config({base})
{boxes_only}dataloader, lr_multiplier, model = _cfg.dataloader, _cfg.lr_multiplier, _cfg.model
optimizer, train, tta = _cfg.optimizer, _cfg.train, _cfg.tta

dataloader.train.dataset.names = {train}
dataloader.test.dataset.names = {val}
train.output_dir = _folder
'''


@dataclass(frozen=True)
class OwnData:
    """Files of own data.

    Attributes:
        train_file: annotations of the training split.
        val_file: annotations of the split for evaluation.
        images: folder of the images of both.
    """

    train_file: Path
    val_file: Path
    images: Path

    def absolute(self) -> "OwnData":
        """Return the same with absolute paths. Links are kept."""
        paths = (self.train_file, self.val_file, self.images)
        return OwnData(*(Path(os.path.abspath(path)) for path in paths))


def dataset_names(folder: str | Path) -> tuple[str, str]:
    """Return the names under which the two splits are registered, from that of a folder."""
    stem = Path(os.path.abspath(folder)).name
    stem = stem if stem.startswith("own_") else f"own_{stem}"
    return f"{stem}_train", f"{stem}_val"


def config_text(
    folder: str | Path,
    data: OwnData,
    base: str,
    choices: Sequence[Choice],
    measures: str = "",
    *,
    boxes_only: bool = False,
    contents: Sequence[str] = (),
) -> str:
    """Return a Python config: the registration of both splits, and each choice with its reason.

    Args:
        folder: output folder of the training.
        data: files of the data.
        base: name of the base config.
        choices: values that are assigned, with their reasons as comments.
        measures: text for the docstring.
        boxes_only: leave out everything about masks.
        contents: SHA-256 of both annotation files, which :func:`recorded_contents` reads.
    """
    train, val = dataset_names(folder)
    data = data.absolute()
    told = "\n".join(
        textwrap.fill(line, _WIDTH, initial_indent="    ", subsequent_indent="      ")
        for line in _safe(measures).splitlines()
    )
    text = _HEAD.format(
        path=_safe(str(Path(folder, NAME))),
        measures=f"The training data:\n\n{told}" if measures else "",
        functions="load_config, load_part" if any(c.code for c in choices) else "load_config",
        imports="\nfrom d2_seesaw.engine.boxes_only import boxes_only" if boxes_only else "",
        boxes_only="boxes_only(_cfg)\n" if boxes_only else "",
        contents=_contents(data, folder, contents),
        train=_literal(train),
        val=_literal(val),
        train_file=_file(data.train_file, folder),
        val_file=_file(data.val_file, folder),
        images=_literal(str(data.images)),
        base=_literal(base),
    )
    return text + "".join(f"\n{_assignments(choice)}" for choice in choices)


def _contents(data: OwnData, folder: str | Path, contents: Sequence[str]) -> str:
    if not contents:
        return ""
    files = zip(contents, (data.train_file, data.val_file), strict=True)
    lines = [f"# SHA-256 {sha256} of {_file(path, folder)}\n" for sha256, path in files]
    return f"\n{_CONTENTS}\n{''.join(lines)}"


def recorded_contents(
    text: str, files: Sequence[str | None], folder: str | Path
) -> list[str | None]:
    """Return the SHA-256 of annotation files that a config was written for.

    Args:
        text: the config.
        files: annotation files that the config registers.
        folder: folder of the config.

    Returns:
        One for each file; None for a file that the config has no SHA-256 of, because an earlier
        version wrote it or its user has changed it.
    """
    contents = {file: sha256 for sha256, file in _CONTENT.findall(text)}
    return [contents.get(_file(Path(file), folder)) if file else None for file in files]


def _file(path: Path, folder: str | Path) -> str:
    """Return Python text for an annotation file. The parts of a split move with their folder."""
    if path.parent == Path(os.path.abspath(folder)):
        return f"os.path.join(_folder, {_literal(path.name)})"
    return _literal(str(path))


def _safe(text: str) -> str:
    """Return text that does not end a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")


def _assignments(choice: Choice) -> str:
    sentences = [_sentence(choice.reason)]
    if choice.warning:
        sentences.append(f"Warning: {choice.warning}.")
    comments = [
        textwrap.fill(_safe(text), _WIDTH, initial_indent="# ", subsequent_indent="# ")
        for text in (f"{choice.subject}: {choice.value}", *sentences)
    ]
    lines = [f"{key} = {_literal(value)}" for key, value in choice.settings.items()]
    return "\n".join([*comments, *lines, *choice.code.splitlines()]) + "\n"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _literal(value: Any) -> str:
    """Return a value as Python text, with double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def choices_text(choices: Sequence[Choice]) -> str:
    """Return the choices with their reasons for the terminal, one below the other."""
    width = max(len(choice.subject) for choice in choices)
    lines = []
    for choice in choices:
        lines.append(f"  {choice.subject:<{width}}  {choice.value}")
        indent = " " * (width + 4)
        for text in (choice.reason, choice.warning and f"warning: {choice.warning}"):
            lines += textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)
