"""Specification of a dataset of cut-outs, and the generators of random numbers."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from d2_seesaw.synthetic.folder import SPLITS
from d2_seesaw.synthetic.profile import PROFILES, ListedProfile, LongTailProfile

PLAN_STREAM, LAYOUT_STREAM, DRAWING_STREAM, TEXTURE_STREAM = range(4)

FREQUENCIES = ("random", "cutouts")

CUTOUT_PROFILE = LongTailProfile(
    rare=2, common=2, frequent=1, head_share=0.3, tail_images=3, full_scale_images=1200
)
CUTOUT_PROFILES = {"cutouts": CUTOUT_PROFILE, **PROFILES}


@dataclass(frozen=True)
class CutoutSources:
    """Folders of pictures, and the choice of pictures in them.

    Attributes:
        cutouts: folder of pictures with transparency, searched with its subfolders.
        backgrounds: folder of background pictures; generated textures if it is None.
        table: CSV file with the columns ``file`` (relative to ``cutouts``) and ``category``. By
            default a picture's category is its folder.
        category_depth: number of leading folders that name a category; None for all of them.
        include: glob patterns of paths relative to ``cutouts``, one of which must match; ``*``
            also matches "/". Empty for all pictures.
        exclude: glob patterns of paths to leave out.
        exclude_backgrounds: glob patterns of paths relative to ``backgrounds`` to leave out.
    """

    cutouts: Path
    backgrounds: Path | None = None
    table: Path | None = None
    category_depth: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_backgrounds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("cutouts", "backgrounds"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise ValueError(f"{name} must be a folder of pictures, got {folder}")
        if self.category_depth is not None and self.category_depth < 1:
            raise ValueError(f"category_depth must be at least 1, got {self.category_depth}")
        if self.table and self.category_depth:
            raise ValueError("give a table or category_depth, not both: a table names categories")


@dataclass(frozen=True)
class CutoutStyle:
    """Difficulty of the scenes.

    Attributes:
        scale: smallest and largest size of an object: the square root of the area of its box,
            relative to the shorter side of the image. Sizes are log-uniform.
        max_enlargement: largest magnification of a picture; smaller objects come of small pictures.
        max_rotation: largest rotation in either direction, in degrees.
        flip: mirror half of the objects and backgrounds.
        light: strength of random gain, gamma and contrast of objects and images, 0 for none.
        blur: largest standard deviation of the blur of an object, in pixels.
        noise: standard deviation of the noise of a pixel, of 255.
        min_visible_share: smallest visible fraction of an object after occlusion and truncation.
        min_visible_pixels: smallest visible area of an object.
        placement_attempts: positions to try per object; the size shrinks on the way.
    """

    scale: tuple[float, float] = (0.2, 0.6)
    max_enlargement: float = 2.0
    max_rotation: float = 20.0
    flip: bool = True
    light: float = 1.0
    blur: float = 1.0
    noise: float = 2.0
    min_visible_share: float = 0.4
    min_visible_pixels: int = 48
    placement_attempts: int = 40

    def __post_init__(self) -> None:
        low, high = self.scale
        expectations = {
            "scale": (0 < low <= high <= 1, "0 < smallest <= largest <= 1"),
            "max_enlargement": (self.max_enlargement > 0, "above 0"),
            "max_rotation": (0 <= self.max_rotation <= 180, "between 0 and 180 degrees"),
            "light": (0 <= self.light <= 3, "between 0 and 3"),
            "blur": (0 <= self.blur <= 20, "between 0 and 20 pixels"),
            "noise": (0 <= self.noise <= 100, "between 0 and 100"),
            "min_visible_share": (0 < self.min_visible_share <= 1, "above 0 and at most 1"),
            "min_visible_pixels": (self.min_visible_pixels >= 1, "at least 1"),
            "placement_attempts": (self.placement_attempts >= 1, "at least 1"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")


@dataclass(frozen=True)
class CutoutSpec:
    """Parameters of a dataset of cut-outs. Equal pictures and specifications give equal data.

    Attributes:
        num_train_images: number of training images.
        num_val_images: number of validation images.
        image_size: H, W.
        objects_per_image: minimum and maximum number of objects per image.
        seed: seed of everything, the split of the cut-outs included.
        profile: number of training images per category.
        frequencies: "random", or "cutouts" to make categories with more cut-outs more frequent; not
            used by a profile that lists the categories.
        held_out: share of the cut-outs of each category that only validation shows, and of the
            backgrounds.
        scenes: number of groups of categories and backgrounds that occur together.
        scene_strength: probability that a category appears in an image of its own scene; otherwise
            it appears in any image. 0: categories are independent of each other and of backgrounds.
        style: difficulty of the scenes.
        val_flatness: 0 keeps the training split's long tail in validation; 1 removes it.
        min_val_images: minimum validation images per category, if there are enough images.
        negatives_per_image: number of categories verified to be absent per image.
        not_exhaustive_probability: probability that an image with a repeated category leaves some
            of its objects unannotated and marks the category as not exhaustive.
    """

    num_train_images: int = 1200
    num_val_images: int = 400
    image_size: tuple[int, int] = (240, 320)
    objects_per_image: tuple[int, int] = (2, 5)
    seed: int = 0
    profile: LongTailProfile | ListedProfile = CUTOUT_PROFILE
    frequencies: str = "random"
    held_out: float = 0.25
    scenes: int = 1
    scene_strength: float = 0.8
    style: CutoutStyle = field(default_factory=CutoutStyle)
    val_flatness: float = 0.7
    min_val_images: int = 10
    negatives_per_image: int = 10
    not_exhaustive_probability: float = 0.1

    def __post_init__(self) -> None:
        low, high = self.objects_per_image
        expectations = {
            "num_train_images": (self.num_train_images >= 1, "at least 1"),
            "num_val_images": (self.num_val_images >= 1, "at least 1"),
            "image_size": (
                len(self.image_size) == 2 and min(self.image_size) >= 32,
                "a height and a width of at least 32",
            ),
            "objects_per_image": (1 <= low <= high, "1 <= fewest <= most"),
            "frequencies": (self.frequencies in FREQUENCIES, f"one of {FREQUENCIES}"),
            "seed": (self.seed >= 0, "at least 0"),
            "held_out": (0 < self.held_out < 1, "between 0 and 1"),
            "scenes": (self.scenes >= 1, "at least 1"),
            "scene_strength": (0 <= self.scene_strength <= 1, "between 0 and 1"),
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


def generator_of(spec: CutoutSpec, stream: int, split: str, image: int = 0) -> np.random.Generator:
    """Return the random generator of an image, for one purpose."""
    return np.random.default_rng([spec.seed, stream, SPLITS.index(split), image])
