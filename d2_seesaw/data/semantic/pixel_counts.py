"""Cached pixel counts per class of the label maps of a dataset.

Shapes in this module:
    C: classes
    N: images
"""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from d2_seesaw.data.catalog import load_dataset
from d2_seesaw.data.semantic.label_maps import label_file, read_labels
from d2_seesaw.utils.files import atomic_write, default_cache_folder, digest, file_state
from d2_seesaw.utils.progress import track

logger = logging.getLogger(__name__)

_MOST_THREADS = 8  # decoding and counting release the GIL only in part


def class_pixel_counts(
    dataset: Sequence[Mapping[str, Any]],
    num_classes: int,
    ignore_label: int = 255,
    *,
    cache_folder: str | Path | None = None,
    progress: bool = True,
    synchronize: bool = True,
) -> np.ndarray:
    """Count the pixels of each class in each label map.

    The counts are cached in a file until the size or modification time of a label map changes.

    Args:
        dataset: N records with label maps, see :func:`~d2_seesaw.data.read_labels`.
        num_classes: C.
        ignore_label: label of pixels without a class, which are not counted.
        cache_folder: folder of the cache; ``~/.cache/d2_seesaw`` by default.
        progress: show the progress, see :class:`~d2_seesaw.utils.progress.Progress`.
        synchronize: with several ranks, count on the main rank and let the others read the cache.
            All ranks must then call this.

    Returns:
        ``(N, C)`` int64 counts.

    Raises:
        ValueError: a label map cannot be read or contains other classes.
    """
    if not 1 <= num_classes <= ignore_label:
        raise ValueError(
            f"num_classes must be in [1, {ignore_label}] with ignore_label {ignore_label}, "
            f"got {num_classes}"
        )
    folder = default_cache_folder() if cache_folder is None else Path(cache_folder)
    name = digest([num_classes, ignore_label, [_identity(record) for record in dataset]])
    path = folder / f"class_pixel_counts_{name}.npz"
    shape = (len(dataset), num_classes)

    counts = None
    if synchronize:
        if comm.is_main_process():
            counts = _counted(dataset, path, shape, ignore_label, progress)
        comm.synchronize()
    # Without a shared folder, the ranks of each machine count again.
    return _counted(dataset, path, shape, ignore_label, progress) if counts is None else counts


def _counted(
    dataset: Sequence[Mapping[str, Any]],
    path: Path,
    shape: tuple[int, int],
    ignore_label: int,
    progress: bool,
) -> np.ndarray:
    """Return the counts from the cache; count and cache them if they are missing."""
    state = digest([_state(label_file(record)) for record in dataset])
    counts = _read(path, state, shape)
    if counts is None:
        counts = _count(dataset, shape, ignore_label, progress)
        _write(path, state, counts)
    return counts


def _count(
    dataset: Sequence[Mapping[str, Any]],
    shape: tuple[int, int],
    ignore_label: int,
    progress: bool,
) -> np.ndarray:
    count = partial(_count_one, num_classes=shape[1], ignore_label=ignore_label)
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        rows = track(
            pool.map(count, dataset),
            "counting pixels of label maps",
            total=len(dataset),
            unit="image",
            shown=progress,
        )
        try:
            return np.array(list(rows), dtype=np.int64).reshape(shape)
        except ValueError:
            pool.shutdown(wait=True, cancel_futures=True)  # skip the remaining label maps
            raise


def _count_one(record: Mapping[str, Any], *, num_classes: int, ignore_label: int) -> np.ndarray:
    labels = read_labels(record, ignore_label, num_classes=num_classes)
    return np.bincount(labels.ravel(), minlength=num_classes)[:num_classes]


def _identity(record: Mapping[str, Any]) -> list[Any]:
    """Return the fields of a record that its counts depend on (part of the cache key)."""
    label_ids = record.get("sem_seg_label_ids")
    # JSON has no integer keys, and objects are unordered.
    pairs = None if label_ids is None else sorted(label_ids.items())
    path = os.path.abspath(label_file(record))
    return [path, record.get("height"), record.get("width"), pairs]


def _state(path: str) -> list[int] | None:
    try:
        return file_state(path)
    except OSError:
        return None  # reading the file raises the error


def _read(path: Path, state: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the cached counts for this state of the files, or None."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["state"]) != state:
                return None
            counts = kept["counts"]
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive raises errors of many kinds
        logger.warning("cached counts in %s cannot be read (%s): counting again", path, error)
        return None
    return counts if counts.shape == shape and counts.dtype == np.int64 else None


def _write(path: Path, state: str, counts: np.ndarray) -> None:
    try:
        with atomic_write(path) as file:
            np.savez_compressed(file, state=state, counts=counts)
    except OSError as error:
        logger.warning("pixel counts could not be cached in %s: %s", path, error)


class LabelReader:
    """Callable that maps a record to its ``(H, W)`` labels, for use in configs.

    Args:
        ignore_label: label of pixels without a class.
    """

    def __init__(self, ignore_label: int = 255) -> None:
        self.ignore_label = ignore_label

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """Read the labels of one record; see :func:`~d2_seesaw.data.read_labels`."""
        return read_labels(record, self.ignore_label)


class ClassPixels:
    """Callable that counts the pixels of each class in registered datasets, with a cache.

    Args:
        names: one or several registered names, usually the training split.
    """

    def __init__(self, names: str | Sequence[str]) -> None:
        self.names = names

    def __call__(self) -> np.ndarray:
        """Count the pixels.

        Returns:
            ``(C,)`` int64 pixels, C as in the metadata of the (first) dataset.

        Raises:
            ValueError: a label map cannot be read.
            FileNotFoundError: the data are missing; the message lists all expected paths.
        """
        first = self.names if isinstance(self.names, str) else self.names[0]
        dataset = load_dataset(self.names, filter_empty=False)
        metadata = MetadataCatalog.get(first)
        counts = class_pixel_counts(
            dataset,
            len(metadata.stuff_classes),
            metadata.ignore_label,
            synchronize=False,  # the evaluator calls this only on the main rank
        )
        return counts.sum(axis=0)
