from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.synthetic.cutouts import CutoutSources, CutoutSpec, CutoutStyle

COLORS = {
    "birds/duck": (250, 220, 30),
    "birds/goose": (240, 240, 240),
    "birds/my hen": (200, 60, 20),
    "birds/öl-gans": (120, 20, 20),
    "fruit/apple": (20, 200, 40),
    "fruit/pear": (160, 250, 90),
    "tools/big/saw": (30, 60, 220),
    "tools/big/axe": (90, 180, 250),
    "tools/big/axe_mirror": (90, 10, 250),
}

# Flat colors are kept, so that a cut-out can be recognized by its color.
FLAT = CutoutStyle(light=0, noise=0, blur=0, scale=(0.3, 0.6), max_enlargement=8)

SPEC = CutoutSpec(
    num_train_images=24,
    num_val_images=10,
    image_size=(96, 128),
    style=FLAT,
    min_val_images=3,
    negatives_per_image=1,
    not_exhaustive_probability=0.3,
)


def ellipse(color, size=(40, 30), hole=False):
    """Return an RGBA picture of an ellipse in a transparent, black frame, notched on the left."""
    width, height = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = (x**2 + y**2 < 0.9) & ~((x < -0.3) & (y > 0))
    if hole:
        inside &= x**2 + y**2 > 0.2
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[inside] = (*color, 255)
    return pixels


def save(path: Path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number, (name, color) in enumerate(COLORS.items()):
        size = (36 + 3 * number, 30 + number)
        save(root / "cutouts" / f"{name}.png", ellipse(color, size, hole=number % 2 == 0))
    rng = np.random.default_rng(0)
    for name in ("hill-d.png", "hill-l.webp", "sea.jpg", "wood.png"):
        level = rng.integers(80, 100)
        save(root / "backgrounds" / name, np.full((150, 220, 3), level, np.uint8))
    return root


@pytest.fixture(scope="session")
def sources(pictures):
    return CutoutSources(pictures / "cutouts", pictures / "backgrounds")
