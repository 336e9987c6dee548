"""Parses large annotation files without ever holding their polygons as Python numbers.

Such a file is nearly all coordinates. They are cut out of its text and parsed in blocks, as whole
arrays, so that each takes 8 bytes instead of 32; ``json`` parses the rest.
"""

import json
import os
import re
from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from d2_seesaw.data.annotations.decimal_numbers import parse_decimals
from d2_seesaw.data.annotations.table import collection_paused
from d2_seesaw.utils.progress import Progress

_CHARACTERS_PER_BLOCK = 1 << 22
# In JSON no other text looks like this key, for quotes inside of text have a backslash.
_LIST = r"\[[\d., ]+\]"
_POLYGONS = re.compile(rf'"segmentation": ?\[({_LIST}(?:, ?{_LIST})*)\]')
_BETWEEN = re.compile(r"\], ?\[")
# Stands for polygons that were cut out.
_MARK = "\0polygons "
_MARK_IN_JSON = json.dumps(_MARK)[1:-1]
_NULL_IN_JSON = json.dumps("\0")[1:-1]


def parse_compactly(json_file: str | Path) -> Any:
    """What ``json.load`` gives, with polygons of ``annotations`` as arrays of float64.

    Polygons with anything but plain non-negative numbers in them may stay lists.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON.
    """
    text = _text_of(json_file)
    work = {"total": len(text), "unit": "B"}
    with collection_paused(), Progress(f"reading {os.path.basename(json_file)}", **work) as shown:
        try:
            rest, polygons = _cut_out(text, shown)
            del text
            content = json.loads(rest)
            _put_back(content, polygons)
        except ValueError:  # the error of the file is that of json, if there is one
            return json.loads(_text_of(json_file))
    return content


def is_finite(numbers: Sequence[Any]) -> bool:
    """Whether all are numbers of a size that can occur in a picture."""
    try:
        # Infinities of two signs add up to nan, and nothing finite in a picture reaches 1e300.
        return -1e300 < sum(numbers) < 1e300
    except TypeError:
        return False


def _text_of(json_file: str | Path) -> str:
    with open(json_file, encoding="utf-8") as file:
        return file.read()


def _cut_out(text: str, progress: Progress) -> tuple[str, list[Any]]:
    """``text`` with marks in the place of polygons, and these."""
    if _NULL_IN_JSON in text:
        raise ValueError("there may be a mark in the text")
    rest, polygons, texts = [], [], []
    last = parsed = 0
    for found in _POLYGONS.finditer(text):
        number = len(polygons) + len(texts)
        rest += [text[last : found.start()], f'"segmentation": "{_MARK_IN_JSON}{number}"']
        last = found.end()
        texts.append(found[1][1:-1])
        if last - parsed >= _CHARACTERS_PER_BLOCK:
            polygons += _parsed(texts)
            texts = []
            progress.update(last - parsed)
            parsed = last
    polygons += _parsed(texts)
    progress.update(len(text) - parsed)
    return "".join([*rest, text[last:]]), polygons


def _parsed(texts: list[str]) -> list[list[array]]:
    """The polygons of each annotation, whose texts are the numbers with brackets in between."""
    split = [_BETWEEN.split(text) for text in texts]
    values, ends = parse_decimals([polygon for polygons in split for polygon in polygons])
    if values.max(initial=0) >= 1e300:
        raise ValueError("numbers that no picture has")
    bounds = [0, *ends.tolist()]
    made = iter(array("d", values[start:stop].tobytes()) for start, stop in pairwise(bounds))
    return [[next(made) for _ in polygons] for polygons in split]


def _put_back(content: Any, polygons: list[Any]) -> None:
    number = 0
    annotations = content.get("annotations") if isinstance(content, dict) else None
    for annotation in annotations if isinstance(annotations, list) else []:
        mark = annotation.get("segmentation") if isinstance(annotation, dict) else None
        if isinstance(mark, str) and mark.startswith(_MARK):
            annotation["segmentation"] = polygons[int(mark[len(_MARK) :])]
            number += 1
    if number < len(polygons):
        raise ValueError("polygons elsewhere than in annotations")
