"""Plan of a dataset: the categories and the scene of every image.

Shapes in this module:
    K: categories
    N: images
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from d2_seesaw.synthetic.cutouts.spec import PLAN_STREAM, CutoutSpec, generator_of
from d2_seesaw.synthetic.folder import SPLITS, image_ids
from d2_seesaw.synthetic.profile import (
    ListedProfile,
    SceneProfile,
    assign_categories,
    flattened_counts,
)


@dataclass(frozen=True)
class ImageJob:
    """Image to make: its split, id, categories of the objects, and scene."""

    split: str
    image_id: int
    categories: list[int]
    scene: int


def _deal_scenes(rng: np.random.Generator, counts: np.ndarray, number: int) -> np.ndarray:
    """Return the ``(K,)`` scene of each category; each scene gets frequent and rare ones."""
    scenes = np.zeros(len(counts), int)
    order = np.argsort(-counts, kind="stable")
    for start in range(0, len(order), number):
        members = order[start : start + number]
        scenes[members] = rng.permutation(number)[: len(members)]
    return scenes


def _scene_profile(
    rng: np.random.Generator, of_category: np.ndarray, counts: np.ndarray, spec: CutoutSpec, n: int
) -> SceneProfile:
    """Deal scenes to images, as many to each as its categories need."""
    needed = np.bincount(of_category, weights=counts, minlength=spec.scenes)
    bounds = np.rint(np.cumsum(needed) / needed.sum() * n).astype(int)
    of_image = np.searchsorted(bounds, np.arange(n), side="right")
    return SceneProfile(of_category, rng.permutation(of_image), spec.scene_strength)


def _train_counts(
    rng: np.random.Generator, spec: CutoutSpec, num_cutouts: list[int], names: Sequence[str]
) -> np.ndarray:
    """Return the ``(K,)`` numbers of training images."""
    if isinstance(spec.profile, ListedProfile):
        return spec.profile.counts_of(names, spec.num_train_images)
    ranked = spec.profile.image_counts(len(num_cutouts), spec.num_train_images)
    if spec.frequencies == "random":
        return rng.permutation(ranked)
    order = rng.permutation(len(num_cutouts))
    order = order[np.argsort(-np.array(num_cutouts)[order], kind="stable")]
    counts = np.empty_like(ranked)
    counts[order] = ranked
    return counts


def plan_images(
    spec: CutoutSpec, num_cutouts: list[int], names: Sequence[str] = ()
) -> tuple[dict[str, list[ImageJob]], np.ndarray]:
    """Assign categories and a scene to each image.

    Args:
        spec: specification.
        num_cutouts: K numbers of cut-outs.
        names: K names of the categories, for a profile that lists them.

    Returns:
        The images of each split, and the ``(K,)`` scenes of the categories.

    Raises:
        ValueError: the images cannot hold the objects that the profile asks for, or it lists other
            categories.
    """
    rng = generator_of(spec, PLAN_STREAM, "train")
    counts = {"train": _train_counts(rng, spec, num_cutouts, names)}
    appearances = spec.num_val_images * sum(spec.objects_per_image) // 3
    counts["val"] = flattened_counts(
        counts["train"],
        spec.num_val_images,
        appearances=max(appearances, len(num_cutouts)),
        flatness=spec.val_flatness,
        minimum=spec.min_val_images,
    )
    of_category = _deal_scenes(rng, counts["train"], spec.scenes)
    plan = {}
    for split in SPLITS:
        ids = image_ids(split, asdict(spec))
        rng = generator_of(spec, PLAN_STREAM, split, 1)
        scenes = _scene_profile(rng, of_category, counts[split], spec, len(ids))
        shown = assign_categories(
            rng,
            counts[split],
            len(ids),
            spec.objects_per_image,
            scenes if spec.scenes > 1 else None,
        )
        plan[split] = [
            ImageJob(split, image_id, categories, int(scene))
            for image_id, categories, scene in zip(ids, shown, scenes.of_image, strict=True)
        ]
    return plan, of_category


def own_scene_share(jobs: list[ImageJob], of_category: np.ndarray) -> float:
    """Return the share of appearances of categories in images of their own scene."""
    own = [of_category[c] == job.scene for job in jobs for c in set(job.categories)]
    return float(np.mean(own))
