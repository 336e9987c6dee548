"""Images for a dry run: the largest batch of the training data, and test images."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.bad_images import MappedDataset
from d2_seesaw.utils.random_state import generators_kept, seed_generators

RANDOM, LARGEST = 8, 2
"""Batches of random and of the largest test images of each rank."""
_BY_AREA, _BY_RATIO = 3, 7
_SEED = 20261127  # of the choice of images; any


def image_sizes(dataset: Any) -> np.ndarray:
    """Return ``(N, 2)`` widths and heights of a dataset; 0 where a record does not give them."""
    if isinstance(dataset, Records):
        return dataset.sizes()
    return np.array([(r.get("width", 0), r.get("height", 0)) for r in dataset]).reshape(-1, 2)


def largest_batch(dataset: MappedDataset, batch_size: int) -> list[dict[str, Any]]:
    """Return the batch that needs most memory of those that a loader may give.

    The images are those with the most pixels, with extreme ratios of their sides, and with the most
    annotations. Random sizes of augmentations are set to their largest value. With grouping by
    orientation, all images of the batch have the same one. Images are padded to the largest height
    and the largest width of the batch, so it has the highest and the widest image.

    Args:
        dataset: the training data.
        batch_size: number of images. Some are repeated.

    Raises:
        ValueError: none of the images can be mapped; the message has the reason of the last one.
    """
    mapper = at_largest_size(dataset.mapper._obj)
    sizes = image_sizes(dataset.records)
    groups = [np.arange(len(sizes))]
    if dataset.is_wide is not None:
        groups = [np.flatnonzero(dataset.is_wide), np.flatnonzero(~dataset.is_wide)]
    batches = []
    reason: Exception | None = None
    with generators_kept():
        for group in groups:
            mapped: list[dict[str, Any]] = []
            for index in candidates(sizes, group, dataset.records):
                seed_generators(_SEED, index)
                try:
                    sample = mapper(dataset.records[index])
                except Exception as error:  # bad images are the business of the loader
                    reason = error
                else:
                    mapped += [sample] if sample is not None else []
            if mapped:
                batches.append(_fill(mapped, batch_size))
    if not batches:
        raise ValueError(f"no image of the training data can be used: {reason}") from reason
    return max(batches, key=padded_pixels)


def candidates(sizes: np.ndarray, group: np.ndarray, records: Any = None) -> list[int]:
    """Return indices of images of a group that may become the largest ones of a batch.

    Args:
        sizes: ``(N, 2)`` widths and heights.
        group: indices of the group.
        records: if given, the records, of which the largest ones with most annotations are added.
    """
    if not len(group):
        return []
    width, height = sizes[group].T.astype(float)
    by_area = group[np.argsort(-width * height, kind="stable")]
    by_ratio = group[np.argsort(width / np.maximum(height, 1), kind="stable")]
    places = np.linspace(0, len(group) - 1, _BY_RATIO).round().astype(int)
    chosen = [*by_area[:_BY_AREA].tolist(), *by_ratio[places].tolist()]
    if records is not None:
        records = records.without_masks() if isinstance(records, Records) else records
        crowded = max(
            by_area[:200].tolist(), key=lambda i: len(records[i].get("annotations") or ())
        )
        chosen.append(crowded)
    return list(dict.fromkeys(chosen))


def _fill(mapped: list[dict[str, Any]], batch_size: int) -> list[dict[str, Any]]:
    """Return a batch with the highest, the widest and otherwise the largest images."""
    by_area = sorted(mapped, key=lambda s: -_height(s) * _width(s))
    first = [max(by_area, key=_height), max(by_area, key=_width)]
    crowded = max(by_area, key=lambda s: len(s.get("instances", ())))
    batch = [*first, crowded] if batch_size > 2 else first
    while len(batch) < batch_size:
        batch.append(by_area[0])
    return [copy.copy(sample) for sample in batch[:batch_size]]


def _height(sample: dict[str, Any]) -> int:
    return sample["image"].shape[-2]


def _width(sample: dict[str, Any]) -> int:
    return sample["image"].shape[-1]


def padded_pixels(batch: Sequence[dict[str, Any]]) -> int:
    """Return the number of pixels of a batch whose images are padded to a common size."""
    return len(batch) * max(map(_height, batch)) * max(map(_width, batch))


def at_largest_size(mapper: Any) -> Any:
    """Return a copy of a mapper whose augmentations resize to the largest size that they may draw.

    Detectron2's ``ResizeShortestEdge`` and ``ResizeScale`` and augmentations with the same
    attributes are changed, also inside of others. Crops stay as they are.
    """
    mapper = copy.deepcopy(mapper)
    for augmentation in _each(getattr(mapper, "augmentations", None)):
        lengths = getattr(augmentation, "short_edge_length", None)
        if lengths is not None:
            augmentation.short_edge_length = [int(np.max(lengths))] * 2
        if hasattr(augmentation, "min_scale") and hasattr(augmentation, "max_scale"):
            augmentation.min_scale = augmentation.max_scale
    return mapper


def _each(augmentations: Any) -> Iterator[Any]:
    inner = getattr(augmentations, "augs", augmentations)
    if isinstance(inner, list | tuple):
        for augmentation in inner:
            yield from _each(augmentation)
    elif inner is not None:
        yield inner
        yield from _each(getattr(inner, "aug", None))


class TestImages:
    """Some images of a test dataset, as a dataset for torch's loader.

    Each rank gets a contiguous part: random images, then some of the largest ones.

    Args:
        dataset: the test data.
        ranks: number of ranks.
        batch_size: images of a batch of the loader.

    Attributes:
        total: number of images of the test data.
        records: the chosen records.
        timed: batches of a rank whose time is that of random images.
    """

    __test__ = False  # for pytest

    def __init__(self, dataset: Any, ranks: int, batch_size: int = 1) -> None:
        self.total = len(dataset)
        each = batch_size * (RANDOM + LARGEST)
        if self.total <= each * ranks:
            chosen = list(range(self.total))
            self.timed = -(-self.total // (ranks * batch_size))
        else:
            areas = image_sizes(dataset).prod(axis=1)
            largest = np.argsort(-areas, kind="stable")[: LARGEST * batch_size * ranks]
            others = np.setdiff1d(np.arange(self.total), largest)
            rng = np.random.default_rng(_SEED)
            drawn = rng.choice(others, RANDOM * batch_size * ranks, replace=False)
            parts = zip(np.split(drawn, ranks), np.split(largest, ranks), strict=True)
            chosen = np.concatenate([index for part in parts for index in part]).tolist()
            self.timed = RANDOM
        self.records = [dataset[index] for index in chosen]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a record."""
        return self.records[index]
