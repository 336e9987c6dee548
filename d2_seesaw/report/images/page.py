"""Page to leaf through images with their objects and detections. It needs no other file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.frequency import GROUP_NAMES
from d2_seesaw.data.image_files import ImageFolder
from d2_seesaw.evaluation.analysis.error_kinds import KINDS
from d2_seesaw.evaluation.analysis.judging import Entry, JudgedDataset
from d2_seesaw.report.images.outlines import outlines, svg_path
from d2_seesaw.report.images.picture_files import earlier_pictures
from d2_seesaw.report.images.selection import Selection, image_name
from d2_seesaw.report.images.styles import DASHES, DESCRIPTIONS, class_color
from d2_seesaw.report.render import render, script_of
from d2_seesaw.utils.files import atomic_write, write_text
from d2_seesaw.utils.marks import COMMENT
from d2_seesaw.utils.progress import Progress

LOWEST_SCORE = 0.05
"""Lowest score of the detections in a page, unless a lower one is asked for."""

LONG_SIDE = 1024
"""Longer side of the images in a page, in pixels; smaller images keep their size."""

MOST_EMBEDDED = 100
"""Number of images up to which they are in the page itself."""

_QUALITY = 80
_MOST_DETECTIONS = 50


def read_images(
    dataset: JudgedDataset, images: Sequence[int], folder: ImageFolder, failures: list[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index and the ``(H, W, 3)`` RGB pixels of each image that can be read.

    Args:
        dataset: The annotations.
        images: Indices of the images.
        folder: Folder of the images.
        failures: Gets one reason for each image that is left out: it is missing, damaged, too
            large, outside of the folder, or not as large as its annotations say.
    """
    path_of = image_paths(dataset.table.images, str(folder.root))
    for index in images:
        image = dataset.table.images[index]
        place = f"image {image['id']!r}"
        try:
            place = path_of(image)
            pixels = folder.read(place)
            _check_size(pixels, image)
        except Exception as error:  # Pillow raises many kinds of errors for damaged files
            text = str(error)
            failures.append(text if str(place) in text else f"{place}: {text or repr(error)}")
            continue
        yield index, pixels


def _check_size(pixels: np.ndarray, image: dict[str, Any]) -> None:
    height, width = pixels.shape[:2]
    stated = (image.get("width", width), image.get("height", height))
    if stated != (width, height):
        raise ValueError(
            f"it has {width} x {height} pixels, its annotations say {stated[0]} x {stated[1]}"
        )


def images_beside(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the images of a page that has more than are embedded.

    No other page has it: ``look_files`` is of ``look.html``, ``look.htm_files`` of ``look.htm``.
    """
    return Path(f"{os.fspath(path).removesuffix('.html')}_files")


def write_image_page(
    path: str | os.PathLike[str],
    dataset: JudgedDataset,
    images: Sequence[int],
    folder: ImageFolder,
    *,
    min_score: float = 0.3,
    selection: Selection | None = None,
    title: str = "Images",
    subtitle: str = "",
    number: int | None = None,
) -> list[str]:
    """Write a page to leaf through images, with their objects and detections.

    Classes, groups, kinds and scores are filtered in the page. The images are JPEG files with a
    longer side of at most 1024 pixels, in the page itself or, if there are more than 100, in a
    folder beside it: ``look_files`` for ``look.html``. Other images of an earlier page of this name
    are removed from this folder. A page has at most 50 detections of an
    image, first of all those that are selected, with scores from 0.05 on, or from ``min_score`` on
    if that is lower. It says how many it does not have.

    Args:
        path: HTML file to write.
        dataset: The annotations and detections.
        images: Indices of the images, in the order of the page.
        folder: Folder of the images.
        min_score: Lowest score that is shown at first.
        selection: What the images were selected for; by default, detections with this score.
        title: Title of the page.
        subtitle: Text below the title.
        number: Largest number of images in the page.

    Returns:
        One reason for each image that is left out, see ``read_images``.

    Raises:
        ValueError: none of the images can be read.
    """
    failures: list[str] = []
    shown, blocks = [], []
    selection = selection or Selection(min_score=min_score)
    lowest = min(LOWEST_SCORE, min_score)
    total = min(len(images), number or len(images))
    beside = images_beside(path) if total > MOST_EMBEDDED else None
    work = {"total": total, "unit": "image"}
    with Progress(f"writing {os.path.basename(path)}", **work) as progress:
        for index, pixels in islice(read_images(dataset, images, folder, failures), number):
            objects = dataset.objects(index)
            best = selection.detections(dataset, index, _MOST_DETECTIONS, lowest)
            found = sorted([*best.selected, *best.others], key=lambda e: -(e.score or 0.0))
            tolerance = 0.5 * max(1.0, max(pixels.shape[:2]) / LONG_SIDE)
            masks = {"o": _masks(objects, tolerance), "d": _masks(found, tolerance)}
            blocks.append((_data(masks), _place_image(pixels, len(shown), beside)))
            summary = _summary(dataset.table.images[index], pixels, objects, found)
            shown.append(summary | {"more": best.found - len(found)})
            progress.update()
    if not shown:
        raise ValueError(
            f"none of {len(images)} images can be shown, the first: {failures[0]}"
            if failures
            else "no image is selected"
        )
    files = quote(beside.name) if beside is not None else ""
    context = {"title": title, "subtitle": subtitle}
    write_text(path, _page(dataset, shown, blocks, min_score, files, **context))
    _remove_earlier_images(images_beside(path), 0 if beside is None else len(shown))
    return failures


def _remove_earlier_images(folder: Path, number: int) -> None:
    """Remove the images that an earlier page had beyond the number of this one."""
    written = {folder / f"{i}.jpg" for i in range(number)}
    earlier = [p for p in earlier_pictures(folder, "*.jpg", written) if p.stem.isdecimal()]
    for path in earlier:
        path.unlink()
    if earlier and not any(folder.iterdir()):
        folder.rmdir()


def _place_image(pixels: np.ndarray, number: int, beside: Path | None) -> str:
    """Return an image as base64, or write it to the folder beside the page and return ""."""
    if beside is None:
        return base64.b64encode(_jpeg(pixels)).decode()
    with atomic_write(beside / f"{number}.jpg") as file:
        file.write(_jpeg(pixels))
    return ""


def _page(
    dataset: JudgedDataset,
    shown: Sequence[dict[str, Any]],
    blocks: Sequence[tuple[Markup, str]],
    min_score: float,
    files: str,
    **context: Any,
) -> str:
    script = script_of("images")
    groups = [group if group in GROUP_NAMES else "n/a" for group in dataset.groups]
    index = {
        "classes": [
            [name, group, class_color(i)]
            for i, (name, group) in enumerate(zip(dataset.names, groups, strict=True))
        ],
        "groups": GROUP_NAMES,
        "kinds": list(KINDS),
        "dashes": DASHES,
        "results": dataset.kinds is not None,
        "minScore": min_score,
        "lowest": min(LOWEST_SCORE, min_score),
        "files": files,
        "images": shown,
    }
    return render(
        "images",
        index=_data(index),
        blocks=blocks,
        script=Markup(script),
        beside=bool(files),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        kinds={kind: (DESCRIPTIONS[kind], DASHES[kind]) for kind in KINDS},
        with_results=dataset.kinds is not None,
        **context,
    )


def _summary(
    image: dict[str, Any], pixels: np.ndarray, objects: Sequence[Entry], found: Sequence[Entry]
) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    return {
        "name": image_name(image),
        "id": str(image["id"]),
        "size": [width, height],
        "o": [_entry(entry) for entry in objects],
        "d": [_entry(entry) for entry in found],
    }


def _entry(entry: Entry) -> list[Any]:
    score = None if entry.score is None else round(entry.score, 4)
    box = [round(value, 1) for value in entry.box]
    kind = KINDS.index(entry.kind) if entry.kind else 0
    return [entry.category, kind, score, entry.other, box, int(entry.crowd)]


def _masks(entries: Sequence[Entry], tolerance: float) -> list[str]:
    shapes = [entry.segmentation for entry in entries]
    return [svg_path(outlines(shape, tolerance)) if shape else "" for shape in shapes]


def _data(value: Any) -> Markup:
    """Return JSON for a script element, which nothing in it can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _jpeg(pixels: np.ndarray) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((LONG_SIDE, LONG_SIDE))
    image.save(file, "JPEG", quality=_QUALITY, comment=COMMENT)
    return file.getvalue()
