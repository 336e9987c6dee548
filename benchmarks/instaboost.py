"""Time of InstaBoost on an image: this project's, and warping the whole canvas per instance.

    python benchmarks/instaboost.py
    python benchmarks/instaboost.py --instances 300 --coverage 0.3

The images are noise with elliptical instances, so inpainting has realistic work. The candidates
take turns within each round, so that other load on the machine affects all of them. The output is
processor time of one thread, the median over the rounds with its quartiles.

*Canvas per instance* is only one cubic ``cv2.warpAffine`` of the image and its mask per instance,
without inpainting or annotations.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode

from d2_seesaw.data import InstaBoost
from d2_seesaw.data.instaboost.pixels import jitter_colors

Step = Callable[[np.random.Generator], object]


def make_picture(
    size: tuple[int, int], instances: int, coverage: float
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Make a noise image with ellipses whose total area is a share of the image."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), dtype=np.uint8), (0, 0), 2)
    areas = rng.pareto(1.5, instances) + 0.3
    areas *= coverage * size[0] * size[1] / areas.sum()
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    annotations = []
    for area in areas:
        radii = np.sqrt(area / np.pi) * np.array([1.2, 1 / 1.2])
        radii = np.minimum(radii, (size[1] / 2 - 1, size[0] / 2 - 1))
        center = rng.uniform(radii, size[::-1] - radii)
        points = center + radii * circle
        annotation = {
            "bbox": [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()],
            "bbox_mode": BoxMode.XYXY_ABS,
            "segmentation": [points.reshape(-1).tolist()],
            "category_id": 0,
        }
        annotations.append(annotation)
    return image, annotations


def canvas_per_instance(
    image: np.ndarray, instances: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Warp the whole image and a mask once per instance."""
    H, W = image.shape[:2]
    four = np.dstack([image, image[:, :, 0]])
    warped = []
    for _ in range(instances):
        matrix = cv2.getRotationMatrix2D((W / 2, H / 2), 1.0, rng.uniform(0.8, 1.2))
        warped.append(cv2.warpAffine(four, matrix, (W, H), flags=cv2.INTER_CUBIC))
    return warped


def make_steps(size: tuple[int, int], instances: int, coverage: float) -> dict[str, Step]:
    """Return the timed steps by name."""
    image, annotations = make_picture(size, instances, coverage)
    boost = InstaBoost(probability=1, color_probability=0)

    def ours(rng: np.random.Generator) -> object:
        return boost(image, annotations, rng)

    def colors(rng: np.random.Generator) -> object:
        return jitter_colors(image, rng)

    def canvas(rng: np.random.Generator) -> object:
        return canvas_per_instance(image, instances, rng)

    return {"ours": ours, "its colors, if drawn": colors, "canvas per instance": canvas}


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each candidate in each round, with the same random numbers."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for seed in range(-1, rounds):
        for name, step in steps.items():
            start = time.process_time()
            step(np.random.default_rng(abs(seed)))
            if seed >= 0:  # seed -1 is the warm-up
                times[name].append(1e3 * (time.process_time() - start))
    return times


def summary(values: list[float]) -> str:
    """Format median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:8.2f}  ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--coverage", type=float, default=0.25, help="share of the image area")
    parser.add_argument("--rounds", type=int, default=30, help="at least 2")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    size = (arguments.size[0], arguments.size[1])
    times = measure(make_steps(size, arguments.instances, arguments.coverage), arguments.rounds)
    print(
        f"OpenCV {cv2.__version__}, one thread, {arguments.rounds} rounds, {size[0]} x {size[1]}, "
        f"{arguments.instances} instances on {arguments.coverage:.0%} of the picture"
    )
    print(f"  {'ms per picture':<34}median  (quartiles)")
    for name, values in times.items():
        print(f"  {name:<32}{summary(values)}")
    ratios = [c / o for c, o in zip(times["canvas per instance"], times["ours"], strict=True)]
    print(f"  {'canvas per instance / ours':<32}{summary(ratios)}")


if __name__ == "__main__":
    main()
