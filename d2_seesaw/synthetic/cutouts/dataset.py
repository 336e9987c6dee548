"""Generator of long-tailed instance segmentation data from cut-outs, in LVIS v1 format.

    generate_cutout_dataset("datasets/stamps", CutoutSources(Path("stamps"), Path("photographs")))

composes pictures with alpha masks over backgrounds. No cut-out is in both splits. The same pictures
and the same specification give the same annotations for any number of processes: each image has its
own random generators, seeded by seed, split and image.

Shapes in this module:
    K: categories
    N: images
    H, W: height and width of an image
"""

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_seesaw.data.annotations.schema import is_text
from d2_seesaw.data.frequency import group_sizes
from d2_seesaw.synthetic.cutouts.categories import FoundPicture, number_held_out
from d2_seesaw.synthetic.cutouts.materials import Materials, find_candidates, read_materials
from d2_seesaw.synthetic.cutouts.plan import ImageJob, own_scene_share, plan_images
from d2_seesaw.synthetic.cutouts.scenes import (
    CutoutScene,
    compose,
    crop_background,
    develop,
    layout_cutouts,
)
from d2_seesaw.synthetic.cutouts.spec import (
    CUTOUT_PROFILES,
    DRAWING_STREAM,
    LAYOUT_STREAM,
    CutoutSources,
    CutoutSpec,
    generator_of,
)
from d2_seesaw.synthetic.cutouts.workers import in_processes
from d2_seesaw.synthetic.folder import (
    SPLITS,
    finish_writing,
    holds_complete,
    image_file,
    json_file,
    start_writing,
)
from d2_seesaw.synthetic.folder import written_files as instance_files
from d2_seesaw.synthetic.lvis_files import (
    ImageRecord,
    annotate_scene,
    category_entries,
    write_json,
)
from d2_seesaw.synthetic.object_counts import (
    ObjectCounts,
    ObjectSummary,
    count_objects,
    remedies,
)
from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.progress import track
from d2_seesaw.utils.text import printable

_FORMAT_VERSION = 1  # increment it if the same specification gives different data
_JPEG_QUALITY = 92
_CONTENT = "cutouts.json"
_SUMMARY = "summary.json"


@dataclass(frozen=True)
class GeneratedCutouts:
    """Location and content of a generated dataset.

    Attributes:
        root: image root; images are in its folders train and val.
        train_json: annotations.
        val_json: annotations.
        category_names: K names.
        train_image_counts: K numbers of training images.
        num_cutouts: numbers of cut-outs by split.
        own_scene_share: share of the training objects that are in an image of their category's
            scene.
        left_out: one line for each reason not to use pictures.
        objects: lines with the numbers of images of each split without objects or with fewer than
            asked for, the reasons, and what to change. Empty for existing data of a version that
            did not count them.
        annotations_sha256: hash of both annotation files.
        content_sha256: hash of the annotation files, ``cutouts.json`` and all images.
        reused: whether it existed already.
    """

    root: Path
    train_json: Path
    val_json: Path
    category_names: list[str]
    train_image_counts: list[int]
    num_cutouts: dict[str, int]
    own_scene_share: float
    left_out: list[str]
    objects: list[str]
    annotations_sha256: str
    content_sha256: str
    reused: bool

    @property
    def group_sizes(self) -> dict[str, int]:
        """Numbers of rare, common and frequent categories, by letter."""
        return group_sizes(self.train_image_counts)


def _own_part(pixels: np.ndarray, split: str, held_out: float) -> np.ndarray:
    """Return a split's part of a background that both splits use, cut across its longer side."""
    along = 1 if pixels.shape[1] >= pixels.shape[0] else 0
    border = number_held_out(pixels.shape[along], 1 - held_out)
    part = slice(border) if split == "train" else slice(border, None)
    return pixels[:, part] if along else pixels[part]


def _choose_cutouts(
    rng: np.random.Generator, materials: Materials, job: ImageJob
) -> list[np.ndarray]:
    """Draw a cut-out for each object; an image repeats one only if its category has no others."""
    orders: dict[int, Iterator[FoundPicture]] = {}
    for category in sorted(set(job.categories)):
        members = getattr(materials.categories[category], job.split)
        orders[category] = itertools.cycle([members[i] for i in rng.permutation(len(members))])
    return [np.load(next(orders[category]).copy) for category in job.categories]


def _draw(
    spec: CutoutSpec, materials: Materials, job: ImageJob
) -> tuple[CutoutScene, np.ndarray, np.random.Generator]:
    """Return the layout and the picture of an image, and the generator of its layout."""
    rng = generator_of(spec, LAYOUT_STREAM, job.split, job.image_id)
    pictures = _choose_cutouts(rng, materials, job)
    scene = layout_cutouts(rng, job.categories, pictures, spec.image_size, spec.style)
    drawing = generator_of(spec, DRAWING_STREAM, job.split, job.image_id)
    choice = materials.backgrounds[job.split][job.scene]
    pixels = np.load(choice[drawing.integers(len(choice))].copy, mmap_mode="r")
    if materials.shared_backgrounds:
        pixels = _own_part(pixels, job.split, spec.held_out)
    crop = crop_background(drawing, pixels, spec.image_size, flip=spec.style.flip)
    return scene, develop(drawing, compose(crop, scene), spec.style), rng


def _make_image(spec: CutoutSpec, materials: Materials, root: Path, job: ImageJob) -> ImageRecord:
    """Lay out, draw and annotate one image."""
    scene, picture, rng = _draw(spec, materials, job)
    path = image_file(job.split, job.image_id)
    Image.fromarray(picture).save(
        root / path, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:0", optimize=False
    )
    return annotate_scene(
        rng,
        scene,
        image_id=job.image_id,
        path=path,
        num_categories=len(materials.categories),
        negatives=spec.negatives_per_image,
        not_exhaustive_probability=spec.not_exhaustive_probability,
    )


def written_files(parameters: dict[str, Any]) -> Iterator[str]:
    """Yield the paths that the generator writes for ``parameters``, except the markers."""
    yield from instance_files({**parameters, "write_images": True})
    yield _CONTENT
    yield _SUMMARY


def _content(materials: Materials, plan: dict[str, list[ImageJob]], of_category: np.ndarray) -> str:
    """Return what is in the dataset: which cut-outs, backgrounds and scenes, as JSON."""

    def paths(pictures: list[FoundPicture]) -> list[str]:
        # JSON that has a name in another encoding than UTF-8 is refused by strict readers.
        return [p.path if is_text(p.path) else printable(p.path) for p in pictures]

    content = {
        "categories": [
            {"name": c.name, "scene": int(scene), "train": paths(c.train), "val": paths(c.val)}
            for c, scene in zip(materials.categories, of_category, strict=True)
        ],
        "backgrounds": {
            split: [paths(scene) for scene in scenes]
            for split, scenes in materials.backgrounds.items()
        },
        "image_scenes": {split: [job.scene for job in jobs] for split, jobs in plan.items()},
    }
    return json.dumps(content, indent=1)


def _hash_files(root: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def generate_cutout_dataset(
    root: str | Path,
    sources: CutoutSources,
    spec: CutoutSpec | None = None,
    *,
    processes: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> GeneratedCutouts:
    """Generate the dataset of ``spec`` in ``root`` from pictures, unless it exists there.

    Args:
        root: folder for ``train/``, ``val/``, ``lvis_train.json``, ``lvis_val.json``,
            ``cutouts.json`` (which pictures are in which split), ``summary.json`` and, written
            last, ``generator.json``. Other files in it are not changed.
        sources: pictures.
        spec: specification.
        processes: number of workers; one per available core by default.
        overwrite: replace a complete dataset of another specification instead of raising.
        progress: show the progress, see :class:`~d2_seesaw.utils.progress.Progress`.

    Raises:
        ValueError: there are no usable pictures, the specification cannot be met, or ``root``
            contains other data.
    """
    spec, root = spec or CutoutSpec(), Path(root).expanduser()
    processes = len(os.sched_getaffinity(0)) if processes is None else processes
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    for folder in (sources.cutouts, sources.backgrounds):
        if folder and root.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{root} is in {folder}, where the pictures are: choose another root")
    candidates = find_candidates(sources)
    parameters = {
        "kind": "cutouts",
        "format_version": _FORMAT_VERSION,
        **json.loads(json.dumps(asdict(spec))),
        **candidates.identity(sources),
    }
    if holds_complete(root, parameters, written_files):
        return _describe(root, parameters, reused=True)
    with tempfile.TemporaryDirectory(prefix="cutouts_") as store:
        work: Any = {"processes": processes, "progress": progress}
        materials = read_materials(candidates, sources, spec, Path(store), **work)
        plan, of_category = plan_images(
            spec,
            [len(c.train) + len(c.val) for c in materials.categories],
            [category.name for category in materials.categories],
        )
        start_writing(root, parameters, written_files, overwrite=overwrite)
        counts = _write(root, spec, materials, plan, **work)
        write_text(root / _CONTENT, _content(materials, plan, of_category))
        summary = {
            "own_scene_share": own_scene_share(plan["train"], of_category),
            "left_out": materials.left_out,
            "objects": _object_summary(spec, counts, len(of_category)).to_json(),
        }
        write_text(root / _SUMMARY, json.dumps(summary, indent=1))
        finish_writing(root)
    return _describe(root, parameters, reused=False)


def _write(
    root: Path,
    spec: CutoutSpec,
    materials: Materials,
    plan: dict[str, list[ImageJob]],
    *,
    processes: int,
    progress: bool,
) -> dict[str, ObjectCounts]:
    """Write the images and annotation files of both splits; count images by their objects."""
    names = [
        {"name": c.name, "synset": f"{c.name}.n.01", "def": c.name} for c in materials.categories
    ]
    categories: list[dict[str, Any]] = []
    counts = {}
    for split in SPLITS:
        made = track(
            in_processes(partial(_make_image, spec, materials, root), plan[split], processes, 8),
            f"composing {split} images",
            total=len(plan[split]),
            unit="image",
            shown=progress,
        )
        records = list(made)
        counts[split] = count_objects(
            [job.categories for job in plan[split]],
            [record.num_objects for record in records],
            spec.objects_per_image[0],
        )
        categories = categories or category_entries(names, records)
        write_json(root / json_file(split), categories, records, "Generated scenes of cut-outs")
    return counts


def _object_summary(
    spec: CutoutSpec, counts: dict[str, ObjectCounts], num_categories: int
) -> ObjectSummary:
    low, high = spec.objects_per_image
    ways = remedies(spec.profile, CUTOUT_PROFILES, num_categories, spec.num_train_images, high)
    return ObjectSummary(low, counts, ways)


def _describe(root: Path, parameters: dict[str, Any], *, reused: bool) -> GeneratedCutouts:
    # The validation file has the same categories and is the smaller one.
    categories = json.loads((root / json_file("val")).read_text())["categories"]
    content = json.loads((root / _CONTENT).read_text())
    summary = json.loads((root / _SUMMARY).read_text())
    hashed = sorted(name for name in written_files(parameters) if name != _SUMMARY)
    return GeneratedCutouts(
        root=root,
        train_json=root / json_file("train"),
        val_json=root / json_file("val"),
        category_names=[c["name"] for c in categories],
        train_image_counts=[c["image_count"] for c in categories],
        num_cutouts={s: sum(len(c[s]) for c in content["categories"]) for s in SPLITS},
        own_scene_share=summary["own_scene_share"],
        left_out=summary["left_out"],
        objects=summary.get("objects", {}).get("lines", []),
        annotations_sha256=_hash_files(root, [json_file(split) for split in SPLITS]),
        content_sha256=_hash_files(root, hashed),
        reused=reused,
    )
