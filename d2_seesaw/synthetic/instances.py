"""Generator of long-tailed instance segmentation data in LVIS v1 format.

    generate_longtail_dataset("datasets/quickstart")

generates the demo's data in seconds. The same specification gives the same bytes on every machine,
for any number of processes: each image has its own random generators, seeded by seed, split and
image.

Shapes in this module:
    K: categories
    H, W: height and width of an image
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from d2_seesaw.data.frequency import group_sizes
from d2_seesaw.synthetic.folder import (
    SPLITS,
    finish_writing,
    holds_complete,
    image_file,
    image_ids,
    json_file,
    start_writing,
)
from d2_seesaw.synthetic.glyph_scenes import SceneStyle, layout_scene, render_scene
from d2_seesaw.synthetic.lvis_files import (
    ImageRecord,
    annotate_scene,
    category_entries,
    glyph_categories,
    write_json,
)
from d2_seesaw.synthetic.object_counts import ObjectSummary, count_objects, remedies
from d2_seesaw.synthetic.profile import (
    DEMO_PROFILE,
    PROFILES,
    LongTailProfile,
    assign_categories,
    flattened_counts,
)
from d2_seesaw.utils.progress import track

_FORMAT_VERSION = 1  # increment it if the same specification gives different data
_PLAN_STREAM, _LAYOUT_STREAM, _DRAWING_STREAM = range(3)
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class LongTailSpec:
    """Specification that determines every byte of the data.

    Attributes:
        num_categories: K.
        num_train_images: images of the training split, which follows ``profile``.
        num_val_images: images of the validation split, which contains every category.
        image_size: ``(H, W)``.
        objects_per_image: minimum and maximum number of objects per image.
        seed: another seed gives other images of the same categories.
        profile: number of training images per category.
        style: difficulty of the scenes.
        val_flatness: 0 keeps the training split's long tail in validation; 1 removes it.
        min_val_images: minimum validation images per category, if there are enough images.
        negatives_per_image: number of categories verified to be absent per image.
        not_exhaustive_probability: probability that an image with a repeated category leaves some
            of its objects unannotated and marks the category as not exhaustive.
        write_images: False writes the same annotations without images.
    """

    num_categories: int = 20
    num_train_images: int = 1000
    num_val_images: int = 160
    image_size: tuple[int, int] = (144, 144)
    objects_per_image: tuple[int, int] = (2, 5)
    seed: int = 0
    profile: LongTailProfile = DEMO_PROFILE
    style: SceneStyle = field(default_factory=SceneStyle)
    val_flatness: float = 0.7
    min_val_images: int = 10
    negatives_per_image: int = 6
    not_exhaustive_probability: float = 0.1
    write_images: bool = True

    def __post_init__(self) -> None:
        low, high = self.objects_per_image
        expectations = {
            "num_categories": (self.num_categories >= 1, "at least 1"),
            "num_train_images": (self.num_train_images >= 1, "at least 1"),
            "num_val_images": (
                self.num_val_images * (low + high) // 2 >= self.num_categories,
                f"enough, at {low} to {high} objects each, for {self.num_categories} categories",
            ),
            "image_size": (
                len(self.image_size) == 2 and min(self.image_size) >= 32,
                "a height and a width of at least 32",
            ),
            "objects_per_image": (1 <= low <= high, "1 <= fewest <= most"),
            "seed": (self.seed >= 0, "at least 0"),
            "val_flatness": (0 <= self.val_flatness <= 1, "between 0 and 1"),
            "min_val_images": (self.min_val_images >= 1, "at least 1"),
            "negatives_per_image": (self.negatives_per_image >= 0, "at least 0"),
            "not_exhaustive_probability": (
                0 <= self.not_exhaustive_probability <= 1,
                "between 0 and 1",
            ),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")

    def parameters(self) -> dict[str, Any]:
        """Return all fields as they are after a round trip through JSON."""
        return json.loads(json.dumps({"format_version": _FORMAT_VERSION, **asdict(self)}))


@dataclass(frozen=True)
class GeneratedDataset:
    """Location and content of a generated dataset."""

    root: Path  # the image root: images are in its folders train and val
    train_json: Path
    val_json: Path
    category_names: list[str]
    train_image_counts: list[int]  # per category
    reused: bool  # it existed already
    objects: list[str]  # lines on images without objects, see `ObjectSummary`; empty if reused

    @property
    def group_sizes(self) -> dict[str, int]:
        """Numbers of rare, common and frequent categories, by letter."""
        return group_sizes(self.train_image_counts)


@dataclass(frozen=True)
class _ImageJob:
    split: str
    image_id: int
    categories: list[int]


def _generator(spec: LongTailSpec, stream: int, split: str, image: int = 0) -> np.random.Generator:
    return np.random.default_rng([spec.seed, stream, SPLITS.index(split), image])


def _plan(spec: LongTailSpec) -> dict[str, list[_ImageJob]]:
    """Assign categories to each image."""
    ranked = spec.profile.image_counts(spec.num_categories, spec.num_train_images)
    rng = _generator(spec, _PLAN_STREAM, "train")
    # Permuted, so that ids do not depend on frequency, as in LVIS.
    counts = {"train": rng.permutation(ranked)}
    # Two thirds of the expected objects; the rest repeats categories of the image.
    appearances = spec.num_val_images * sum(spec.objects_per_image) // 3
    counts["val"] = flattened_counts(
        counts["train"],
        spec.num_val_images,
        appearances=max(appearances, spec.num_categories),
        flatness=spec.val_flatness,
        minimum=spec.min_val_images,
    )
    plan = {}
    for split in SPLITS:
        ids = image_ids(split, spec.parameters())
        rng = _generator(spec, _PLAN_STREAM, split, 1)
        shown = assign_categories(rng, counts[split], len(ids), spec.objects_per_image)
        plan[split] = [_ImageJob(split, i, c) for i, c in zip(ids, shown, strict=True)]
    return plan


def _make_image(spec: LongTailSpec, root: Path, job: _ImageJob) -> ImageRecord:
    """Lay out, annotate and, with ``write_images``, draw one image."""
    rng = _generator(spec, _LAYOUT_STREAM, job.split, job.image_id)
    scene = layout_scene(rng, job.categories, spec.image_size, spec.style)
    path = image_file(job.split, job.image_id)
    if spec.write_images:
        drawing = _generator(spec, _DRAWING_STREAM, job.split, job.image_id)
        picture = render_scene(drawing, scene, spec.style)
        if not cv2.imwrite(str(root / path), picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
            raise OSError(f"could not write {root / path}")
    return annotate_scene(
        rng,
        scene,
        image_id=job.image_id,
        path=path,
        num_categories=spec.num_categories,
        negatives=spec.negatives_per_image,
        not_exhaustive_probability=spec.not_exhaustive_probability,
    )


def _make_images(
    spec: LongTailSpec, root: Path, jobs: list[_ImageJob], processes: int
) -> Iterator[ImageRecord]:
    """Yield the records in the order of the jobs."""
    make = partial(_make_image, spec, root)
    if processes == 1:
        yield from map(make, jobs)
        return
    with multiprocessing.Pool(processes, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        yield from pool.imap(make, jobs, chunksize=16)


def _describe(
    root: Path, *, reused: bool, objects: ObjectSummary | None = None
) -> GeneratedDataset:
    # The validation file has the same categories and is the smaller one.
    with open(root / json_file("val")) as f:
        categories = json.load(f)["categories"]
    return GeneratedDataset(
        root=root,
        train_json=root / json_file("train"),
        val_json=root / json_file("val"),
        category_names=[c["name"] for c in categories],
        train_image_counts=[c["image_count"] for c in categories],
        reused=reused,
        objects=objects.lines() if objects else [],
    )


def generate_longtail_dataset(
    root: str | Path,
    spec: LongTailSpec | None = None,
    *,
    processes: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> GeneratedDataset:
    """Generate the dataset of ``spec`` in ``root``, unless it exists there.

    Args:
        root: folder for ``train/``, ``val/``, ``lvis_train.json``, ``lvis_val.json`` and, written
            last, ``generator.json``. Other files in it are not changed.
        spec: specification; the demo's data by default.
        processes: number of workers; one per available core by default.
        overwrite: replace a complete dataset of another specification instead of raising.
        progress: show the progress, see :class:`~d2_seesaw.utils.progress.Progress`.

    Raises:
        ValueError: the specification cannot be met, or ``root`` contains other data.
    """
    spec, root = spec or LongTailSpec(), Path(root).expanduser()
    processes = len(os.sched_getaffinity(0)) if processes is None else processes
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    if holds_complete(root, spec.parameters()):
        return _describe(root, reused=True)

    plan = _plan(spec)
    start_writing(root, spec.parameters(), overwrite=overwrite)
    categories: list[dict[str, Any]] = []
    counts = {}
    for split in SPLITS:
        made = track(
            _make_images(spec, root, plan[split], processes),
            f"{'drawing' if spec.write_images else 'laying out'} {split} images",
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
        categories = categories or category_entries(glyph_categories(spec.num_categories), records)
        write_json(root / json_file(split), categories, records)
    finish_writing(root)
    low, high = spec.objects_per_image
    ways = remedies(spec.profile, PROFILES, spec.num_categories, spec.num_train_images, high)
    return _describe(root, reused=False, objects=ObjectSummary(low, counts, ways))
