"""Materials of scenes: cut-outs by category and backgrounds, both split by object and motif.

Every picture is read once. Working copies, reduced to the size that scenes need, are kept in a
temporary folder, so that memory does not grow with the number of pictures.

Shapes in this module:
    K: categories
    H, W: height and width of a picture
"""

import csv
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.synthetic.cutouts.pictures import (
    LeftOut,
    UnusablePictureError,
    choose_by_patterns,
    find_pictures,
    read_background,
    read_cutout,
)
from d2_seesaw.synthetic.cutouts.spec import TEXTURE_STREAM, CutoutSources, CutoutSpec, generator_of
from d2_seesaw.synthetic.cutouts.workers import in_processes
from d2_seesaw.synthetic.folder import SPLITS
from d2_seesaw.synthetic.glyphs import background as texture
from d2_seesaw.utils.progress import track

_NUM_TEXTURES = 24
_MIRRORED = re.compile(r"(?:[_-](?:mirror|mirrored|flip|flipped))+$", re.IGNORECASE)
_VARIANT = re.compile(r"[_-](?:d|l|dark|light|day|night|\d+x\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class FoundPicture:
    """Usable picture.

    Attributes:
        path: path relative to its folder, with "/".
        sha256: hash of the file.
        pixels: hash of the visible pixels, equal for mirrored pictures.
        copy: working copy, an ``(H, W, 3 or 4)`` uint8 array in an .npy file.
    """

    path: str
    sha256: str
    pixels: str
    copy: Path


@dataclass(frozen=True)
class CategoryCutouts:
    """Cut-outs of a category, in two parts without a common object."""

    name: str
    train: list[FoundPicture]
    val: list[FoundPicture]


@dataclass(frozen=True)
class Materials:
    """Pictures to compose.

    Attributes:
        categories: K categories with their cut-outs.
        backgrounds: per split and scene, the backgrounds; with several scenes, both splits have
            the same ones, and each split its own part of them.
        left_out: one line for each reason not to use pictures.
    """

    categories: list[CategoryCutouts]
    backgrounds: dict[str, list[list[FoundPicture]]]
    left_out: list[str]

    def identity(self) -> dict[str, str]:
        """Return hashes of the files and of their use, for ``generator.json``."""
        cutouts = [
            (c.name, split, p.path, p.sha256)
            for c in self.categories
            for split, pictures in (("train", c.train), ("val", c.val))
            for p in pictures
        ]
        backgrounds = {
            split: [[(p.path, p.sha256) for p in scene] for scene in scenes]
            for split, scenes in self.backgrounds.items()
        }
        return {"cutouts_sha256": _sha256(cutouts), "backgrounds_sha256": _sha256(backgrounds)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def categories_from_folders(
    paths: Iterable[str], depth: int | None, left_out: LeftOut
) -> dict[str, str]:
    """Return the category of each path: its folder, or the first ``depth`` folders of it."""
    categories = {}
    for path in paths:
        folders = path.split("/")[:-1][:depth]
        if folders:
            categories[path] = "/".join(folders)
        else:
            left_out.by_reason["in no folder that names a category"].append(path)
    return categories


def categories_from_table(table: Path, folder: Path) -> dict[str, str]:
    """Read the category of each picture from a CSV file.

    Raises:
        ValueError: the table cannot be read, lacks a column, or names a missing file or a file
            twice.
    """
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read: {error}") from error
    missing = {"file", "category"} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(
            f"{table} must have the columns file and category, got {reader.fieldnames}"
        )
    categories: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        path, category = (row["file"] or "").strip(), (row["category"] or "").strip()
        path = path.replace("\\", "/").removeprefix("./")
        if not path or not category:
            raise ValueError(f"{table}, row {number}: file or category is missing")
        if categories.setdefault(path, category) != category:
            raise ValueError(f"{table}, row {number}: {path} has another category before")
        if not (folder / path).is_file():
            raise ValueError(f"{table}, row {number}: there is no {path} in {folder}")
    return dict(sorted(categories.items()))


def object_of(path: str) -> str:
    """Return what pictures of the same object have in common: the name without "_mirror"."""
    return _MIRRORED.sub("", Path(_normalized(path)).stem).lower()


def motif_of(path: str) -> str:
    """Return what variants of a background have in common: the path without "-dark" or "-l"."""
    return _VARIANT.sub("", _MIRRORED.sub("", os.path.splitext(_normalized(path))[0]))


def _normalized(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return names in an order that depends on each name and the seed, not on other names."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()

    return sorted(set(names), key=key)


def number_held_out(total: int, share: float) -> int:
    """Return how many of ``total`` things validation gets: at least one on each side."""
    return min(max(round(share * total), 1), total - 1)


def split_categories(
    categories: dict[str, str],
    pictures: Sequence[FoundPicture],
    *,
    held_out: float,
    seed: int,
    left_out: LeftOut,
) -> list[CategoryCutouts]:
    """Split the cut-outs of each category into training and validation by object.

    Args:
        categories: category of each path.
        pictures: usable pictures, sorted by path. Of pictures with the same pixels, the first
            counts.
        held_out: share of the objects of each category for validation.
        seed: seed of the choice.
        left_out: gets the pictures that are not used.

    Returns:
        The categories with at least two objects, sorted by name.
    """
    objects: dict[str, dict[str, list[FoundPicture]]] = defaultdict(lambda: defaultdict(list))
    seen = set()
    for picture in pictures:
        if picture.pixels in seen:
            left_out.by_reason["same pixels as another, possibly mirrored"].append(picture.path)
            continue
        seen.add(picture.pixels)
        objects[categories[picture.path]][object_of(picture.path)].append(picture)
    split = []
    for name, members in sorted(objects.items()):
        if len(members) < 2:
            reason = "the only object of its category, none left for validation"
            left_out.by_reason[reason].extend(p.path for part in members.values() for p in part)
            continue
        order = shuffled(members, seed)
        number = number_held_out(len(order), held_out)
        val, train = (
            sorted((p for key in keys for p in members[key]), key=lambda p: p.path)
            for keys in (order[:number], order[number:])
        )
        split.append(CategoryCutouts(name, train, val))
    return split


def _read(
    folder: Path, store: Path, spec: CutoutSpec, backgrounds: bool, job: tuple[int, str]
) -> FoundPicture | str:
    """Read a picture and keep a working copy; return a reason if it cannot be used."""
    number, path = job
    try:
        if backgrounds:
            pixels, identity = read_background(folder / path, spec.image_size)
        else:
            pixels, identity = read_cutout(folder / path, 2 * min(spec.image_size))
    except UnusablePictureError as error:
        return str(error)
    copy = store / f"{'background' if backgrounds else 'cutout'}_{number}.npy"
    np.save(copy, pixels)
    return FoundPicture(
        path, hashlib.sha256((folder / path).read_bytes()).hexdigest(), identity, copy
    )


def _read_all(
    folder: Path,
    paths: list[str],
    store: Path,
    spec: CutoutSpec,
    left_out: LeftOut,
    *,
    backgrounds: bool,
    processes: int,
    progress: bool,
) -> list[FoundPicture]:
    work = partial(_read, folder, store, spec, backgrounds)
    results = track(
        in_processes(work, list(enumerate(paths)), processes, 2),
        f"reading {'backgrounds' if backgrounds else 'cut-outs'}",
        total=len(paths),
        unit="picture",
        shown=progress,
    )
    usable = []
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, str):
            left_out.by_reason[result].append(path)
        else:
            usable.append(result)
    return usable


def _make_textures(store: Path, spec: CutoutSpec) -> list[FoundPicture]:
    """Draw backgrounds for datasets without pictures of backgrounds."""
    height, width = (round(1.5 * side) for side in spec.image_size)
    textures = []
    for number in range(max(_NUM_TEXTURES, 4 * spec.scenes)):
        rng = generator_of(spec, TEXTURE_STREAM, "train", number)
        pixels = np.clip(np.rint(texture(rng, height, width, 0.6)), 0, 255).astype(np.uint8)
        copy = store / f"texture_{number}.npy"
        np.save(copy, pixels)
        textures.append(FoundPicture(f"texture_{number}", "", "", copy))
    return textures


def _deal_backgrounds(
    pictures: list[FoundPicture], spec: CutoutSpec
) -> dict[str, list[list[FoundPicture]]]:
    """Return the backgrounds of each split and scene. Variants of a motif stay together."""
    motifs: dict[str, list[FoundPicture]] = {}
    for picture in pictures:
        motifs.setdefault(motif_of(picture.path), []).append(picture)
    if spec.scenes > 1:
        order = sorted(motifs)  # neighbors, such as pictures of the same folder, stay together
        bounds = np.linspace(0, len(order), spec.scenes + 1).round().astype(int)
        parts = [
            order[low:high] or [order[scene % len(order)]]
            for scene, (low, high) in enumerate(itertools.pairwise(bounds))
        ]
        scenes = [[p for motif in part for p in motifs[motif]] for part in parts]
        return dict.fromkeys(SPLITS, scenes)
    if len(motifs) == 1:
        return {split: [pictures] for split in SPLITS}
    order = shuffled(motifs, spec.seed)
    number = number_held_out(len(order), spec.held_out)
    val, train = (
        sorted((p for key in keys for p in motifs[key]), key=lambda p: p.path)
        for keys in (order[:number], order[number:])
    )
    return {"train": [train], "val": [val]}


def collect_materials(
    sources: CutoutSources, spec: CutoutSpec, store: Path, *, processes: int, progress: bool
) -> Materials:
    """Find, read and split all pictures.

    Raises:
        ValueError: there are no usable pictures.
    """
    left_out = LeftOut()
    reading: Any = {"processes": processes, "progress": progress}
    if sources.table:
        categories = categories_from_table(sources.table, sources.cutouts)
        paths = choose_by_patterns(categories, sources.include, sources.exclude)
    else:
        found = find_pictures(sources.cutouts, left_out)
        paths = choose_by_patterns(found, sources.include, sources.exclude)
        categories = categories_from_folders(paths, sources.category_depth, left_out)
    paths = [path for path in paths if path in categories]
    pictures = _read_all(
        sources.cutouts, paths, store, spec, left_out, backgrounds=False, **reading
    )
    split = split_categories(
        categories, pictures, held_out=spec.held_out, seed=spec.seed, left_out=left_out
    )
    if not split:
        raise ValueError(
            f"{sources.cutouts} contains no category with two usable cut-outs, one for training "
            "and one for validation. " + "; ".join(left_out.lines() or ["No pictures were found"])
        )
    if sources.backgrounds is None:
        backgrounds = _make_textures(store, spec)
    else:
        of_backgrounds = LeftOut()
        found = find_pictures(sources.backgrounds, of_backgrounds)
        found = choose_by_patterns(found, (), sources.exclude_backgrounds)
        backgrounds = _read_all(
            sources.backgrounds, found, store, spec, of_backgrounds, backgrounds=True, **reading
        )
        lines = [f"backgrounds: {line}" for line in of_backgrounds.lines()]
        if not backgrounds:
            raise ValueError(
                f"{sources.backgrounds} contains no usable background: "
                + "; ".join(of_backgrounds.lines() or ["no pictures were found"])
            )
        return Materials(split, _deal_backgrounds(backgrounds, spec), left_out.lines() + lines)
    return Materials(split, _deal_backgrounds(backgrounds, spec), left_out.lines())
