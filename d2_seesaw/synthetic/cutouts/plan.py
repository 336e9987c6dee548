"""Plan of a dataset: the categories and the scene of every image.

Shapes in this module:
    K: categories
    N: images
"""

from dataclasses import asdict, dataclass

import numpy as np

from d2_seesaw.synthetic.cutouts.spec import PLAN_STREAM, CutoutSpec, generator_of
from d2_seesaw.synthetic.folder import SPLITS, image_ids
from d2_seesaw.synthetic.profile import SceneProfile, assign_categories, flattened_counts


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


def plan_images(
    spec: CutoutSpec, num_categories: int
) -> tuple[dict[str, list[ImageJob]], np.ndarray]:
    """Assign categories and a scene to each image; also return the scene of each category."""
    rng = generator_of(spec, PLAN_STREAM, "train")
    ranked = spec.profile.image_counts(num_categories, spec.num_train_images)
    counts = {"train": rng.permutation(ranked)}
    appearances = spec.num_val_images * sum(spec.objects_per_image) // 3
    counts["val"] = flattened_counts(
        counts["train"],
        spec.num_val_images,
        appearances=max(appearances, num_categories),
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
