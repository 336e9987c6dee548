"""Materials of scenes: cut-outs by category and backgrounds, both split by object and motif.

Every picture is read once. Working copies, reduced to the size that scenes need, are kept in a
temporary folder, so that memory does not grow with the number of pictures.

Shapes in this module:
    K: categories
    H, W: height and width of a picture
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.synthetic.cutouts.categories import (
    CategoryCutouts,
    FoundPicture,
    categories_from_folders,
    categories_from_table,
    motif_of,
    number_held_out,
    shuffled,
    split_categories,
    without_copies,
)
from d2_seesaw.synthetic.cutouts.pictures import (
    LeftOut,
    UnusablePictureError,
    choose_by_patterns,
    find_pictures,
    read_background,
    read_cutout,
    without_vector_graphics,
)
from d2_seesaw.synthetic.cutouts.spec import TEXTURE_STREAM, CutoutSources, CutoutSpec, generator_of
from d2_seesaw.synthetic.cutouts.workers import in_processes
from d2_seesaw.synthetic.glyphs import background as texture
from d2_seesaw.utils.progress import track

_NUM_TEXTURES = 24


@dataclass(frozen=True)
class Materials:
    """Pictures to compose.

    Attributes:
        categories: K categories with their cut-outs.
        backgrounds: per split and scene, the backgrounds.
        shared_backgrounds: both splits have the same backgrounds, and each its own part of them.
        left_out: one line for each reason not to use pictures.
    """

    categories: list[CategoryCutouts]
    backgrounds: dict[str, list[list[FoundPicture]]]
    shared_backgrounds: bool
    left_out: list[str]


@dataclass(frozen=True)
class Candidates:
    """Files to read.

    Attributes:
        categories: category of the path of each cut-out, sorted by path.
        backgrounds: paths of the backgrounds; None for generated textures.
        left_out: pictures that are not read.
        left_out_backgrounds: backgrounds that are not read.
    """

    categories: dict[str, str]
    backgrounds: list[str] | None
    left_out: LeftOut
    left_out_backgrounds: LeftOut

    def identity(self, sources: CutoutSources) -> dict[str, str | None]:
        """Return hashes of paths, categories and contents, without the folders' own names."""
        cutouts = [(p, c, _file_hash(sources.cutouts / p)) for p, c in self.categories.items()]
        identity: dict[str, str | None] = {"cutouts": _sha256(cutouts), "backgrounds": None}
        if sources.backgrounds and self.backgrounds is not None:
            backgrounds = [(p, _file_hash(sources.backgrounds / p)) for p in self.backgrounds]
            identity["backgrounds"] = _sha256(backgrounds)
        return identity


def _file_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # reading it will give the reason
        return ""


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def find_candidates(sources: CutoutSources) -> Candidates:
    """Find and choose the files, without reading them.

    Raises:
        ValueError: a pattern matches nothing, or the table is wrong.
    """
    left_out, left_out_backgrounds = LeftOut(), LeftOut()
    if sources.table:
        categories = categories_from_table(sources.table, sources.cutouts)
        chosen = choose_by_patterns(categories, sources.include, sources.exclude)
        chosen = without_vector_graphics(chosen, left_out)
        categories = {path: categories[path] for path in chosen}
    else:
        found = find_pictures(sources.cutouts, left_out)
        chosen = choose_by_patterns(found, sources.include, sources.exclude)
        chosen = without_vector_graphics(chosen, left_out)
        categories = categories_from_folders(chosen, sources.category_depth, left_out)
    backgrounds = None
    if sources.backgrounds:
        found = find_pictures(sources.backgrounds, left_out_backgrounds)
        found = choose_by_patterns(found, (), sources.exclude_backgrounds, "backgrounds")
        backgrounds = without_vector_graphics(found, left_out_backgrounds)
    return Candidates(categories, backgrounds, left_out, left_out_backgrounds)


def _read_cutout(folder: Path, store: Path, spec: CutoutSpec, path: str) -> FoundPicture | str:
    """Read a cut-out and keep a working copy; return a reason if it cannot be used."""
    try:
        pixels, identity = read_cutout(folder / path, 2 * min(spec.image_size))
    except UnusablePictureError as error:
        return str(error)
    return _keep(pixels, store, path, identity)


def _read_background(folder: Path, store: Path, spec: CutoutSpec, path: str) -> FoundPicture | str:
    try:
        pixels, identity = read_background(folder / path, spec.image_size)
    except UnusablePictureError as error:
        return str(error)
    return _keep(pixels, store, path, identity)


def _keep(pixels: np.ndarray, store: Path, path: str, identity: str) -> FoundPicture:
    copy = store / f"{_sha256([path, identity])}.npy"
    np.save(copy, pixels)
    return FoundPicture(path, identity, copy)


def _read_all(
    work: Callable[[str], FoundPicture | str],
    paths: list[str],
    left_out: LeftOut,
    what: str,
    *,
    processes: int,
    progress: bool,
) -> list[FoundPicture]:
    results = track(
        in_processes(work, paths, processes, 2),
        f"reading {what}",
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
        textures.append(FoundPicture(f"texture_{number}", "", copy))
    return textures


def _deal_backgrounds(
    pictures: list[FoundPicture], spec: CutoutSpec
) -> tuple[dict[str, list[list[FoundPicture]]], bool]:
    """Return the backgrounds of each split and scene, and whether the splits share them.

    Variants of a motif stay together. With scenes, which are recognized by their backgrounds, both
    splits need the same ones.
    """
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
        return {"train": scenes, "val": scenes}, True
    if len(motifs) == 1:
        return {"train": [pictures], "val": [pictures]}, True
    order = shuffled(motifs, spec.seed)
    number = number_held_out(len(order), spec.held_out)
    val, train = (
        sorted((p for key in keys for p in motifs[key]), key=lambda p: p.path)
        for keys in (order[:number], order[number:])
    )
    return {"train": [train], "val": [val]}, False


def read_materials(
    candidates: Candidates,
    sources: CutoutSources,
    spec: CutoutSpec,
    store: Path,
    *,
    processes: int,
    progress: bool,
) -> Materials:
    """Read and split all pictures.

    Args:
        candidates: files.
        sources: folders of the files.
        spec: specification of the dataset.
        store: folder for working copies.
        processes: number of workers.
        progress: show the progress.

    Raises:
        ValueError: there are no usable pictures.
    """
    reading: Any = {"processes": processes, "progress": progress}
    left_out = candidates.left_out
    paths = list(candidates.categories)
    work = partial(_read_cutout, sources.cutouts, store, spec)
    pictures = _read_all(work, paths, left_out, "cut-outs", **reading)
    split = split_categories(
        candidates.categories, pictures, held_out=spec.held_out, seed=spec.seed, left_out=left_out
    )
    if not split:
        raise ValueError(
            f"{sources.cutouts} contains no category with two usable cut-outs, one for training "
            "and one for validation: " + "; ".join(left_out.lines() or ["no pictures were found"])
        )
    lines = left_out.lines()
    if sources.backgrounds is None or candidates.backgrounds is None:
        backgrounds = _make_textures(store, spec)
    else:
        left_out = candidates.left_out_backgrounds
        work = partial(_read_background, sources.backgrounds, store, spec)
        backgrounds = _read_all(work, candidates.backgrounds, left_out, "backgrounds", **reading)
        backgrounds = without_copies(backgrounds, left_out)
        if not backgrounds:
            raise ValueError(
                f"{sources.backgrounds} contains no usable background: "
                + "; ".join(left_out.lines() or ["no pictures were found"])
            )
        lines += [f"backgrounds: {line}" for line in left_out.lines()]
    return Materials(split, *_deal_backgrounds(backgrounds, spec), lines)
