"""The training loader: batches from any position on, equal for any number of workers."""

import hashlib
import logging
import os
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader

from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.bad_images import BadImages, MappedDataset, check_files_exist, dataset_files
from d2_seesaw.data.batch_order import BatchOrder, Section
from d2_seesaw.data.catalog import FileMetadata, load_dataset
from d2_seesaw.data.prefetch import read_ahead
from d2_seesaw.data.sampling import Dataset, Sampling
from d2_seesaw.data.semantic.folders import read_image_size
from d2_seesaw.utils.files import digest
from d2_seesaw.utils.ranks import raise_on_all_ranks, shared_seed
from d2_seesaw.utils.signals import leave_signals_to_parent

logger = logging.getLogger(__name__)


class TrainLoader:
    """An endless stream of batches that continues at the position of a checkpoint.

    The images of a batch, their order and their augmentations depend on two seeds and on the
    position alone, not on the number of loading processes. The position moves when a batch is read,
    not when it is loaded or copied ahead.

    Args:
        dataset: maps the samples.
        order: batches of this rank.
        images_per_epoch: images of one pass over the data, repeats included.
        has_masks: whether an annotation has a mask.
        identity: digests of the dataset and of the sampling, which a checkpoint is compared with.
        given_seeds: seeds that the user has set, by the name of their option.
        options: further arguments of torch's ``DataLoader``.

    Attributes:
        bad_images: images that were replaced because they could not be read; none by default.
        prefetch_device: device to which the next batch is copied during a step, see
            :func:`~d2_seesaw.data.prefetch.read_ahead`; None, the default, leaves batches on the
            CPU.
    """

    def __init__(
        self,
        dataset: MappedDataset,
        order: BatchOrder,
        *,
        images_per_epoch: float,
        has_masks: bool = True,
        identity: Mapping[str, str] | None = None,
        given_seeds: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        self.dataset = dataset
        self.order = order
        self.images_per_epoch = images_per_epoch
        self.has_masks = has_masks
        self.identity = dict(identity or {})
        self.given_seeds = dict(given_seeds or {})
        self.bad_images = BadImages()
        self.prefetch_device: torch.device | None = None
        self._options = options
        # Weak, because torch ends the loading processes of a reference cycle only after seconds.
        self._stream: weakref.ref[Generator[list[dict[str, Any]], None, None]] | None = None

    @cached_property
    def batches(self) -> DataLoader:
        """The loader of torch, which loads ahead."""
        return DataLoader(
            self.dataset,
            batch_sampler=self.order,
            collate_fn=trivial_batch_collator,
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),  # by default, the generator of the model is drawn from
            **self._options,
        )

    @property
    def total_batch_size(self) -> int:
        """Images of one batch of all ranks."""
        return self.order.sections[-1].ranks * self.order.sections[-1].batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the batches that follow the position. There is one stream at a time.

        Raises:
            BadImageError: more bad images than ``bad_images.limit``.
        """
        self._close_stream()
        stream = self._read()
        self._stream = weakref.ref(stream)
        return stream

    def _read(self) -> Generator[list[dict[str, Any]], None, None]:
        device = self.prefetch_device
        for batch in self.batches if device is None else read_ahead(self.batches, device):
            self.order.count_batch()
            self.bad_images.collect(batch)
            yield batch

    def close(self) -> None:
        """End the loading processes. Reading again starts others."""
        self._close_stream()
        vars(self).pop("batches", None)

    def _close_stream(self) -> None:
        stream = None if self._stream is None else self._stream()
        self._stream = None
        if stream is not None:
            stream.close()

    def state_dict(self) -> dict[str, Any]:
        """Return seeds and position as plain values, which are the same on all ranks."""
        return {"seed": self.dataset.seed, **self.order.state_dict(), **self.identity}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Continue at a saved position with the saved seeds, before the first batch is loaded.

        The position is kept if the batch size, the number of ranks, the dataset or the sampling
        has changed, and the batches then differ from those of an uninterrupted training.

        Returns:
            These changes, as text.
        """
        saved = {"seed": state["seed"], "sampling.seed": state["order_seed"]}
        for name, seed in self.given_seeds.items():
            if seed != saved[name]:
                logger.warning(
                    "dataloader.train.%s=%d has no effect: the data continue with seed %d of the "
                    "checkpoint",
                    *(name, seed, saved[name]),
                )
        changes = [
            f"another {key}" for key in self.identity if state.get(key) != self.identity[key]
        ]
        size = self.total_batch_size
        self.dataset.seed = state["seed"]
        self.order.load_state_dict(state, same_stream=not changes)
        ranks, batch_size, _ = state["sections"][-1]
        if ranks * batch_size != size:
            changes.append(f"batches of {size} instead of {ranks * batch_size} images")
        return changes


def build_train_loader(
    dataset: Dataset,
    *,
    mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
    sampling: Sampling,
    total_batch_size: int,
    num_workers: int = 4,
    aspect_ratio_grouping: bool = True,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    multiprocessing_context: str | None = None,
    seed: int | None = None,
) -> TrainLoader:
    """Build the training loader over a dataset that is loaded once.

    Args:
        dataset: images as dicts in Detectron2's format.
        mapper: makes a model input from such a dict. It draws random numbers from the generators of
            Python, NumPy and PyTorch, which are seeded for each image.
        sampling: how often each image is shown.
        total_batch_size: images of one step, over all ranks; a multiple of their number.
        num_workers: loading processes of each rank.
        aspect_ratio_grouping: batch images of like orientation together, to save padding.
        prefetch_factor: batches each process loads ahead.
        persistent_workers: keep the processes when the stream is read again. This and
            ``prefetch_factor`` have no effect without loading processes.
        pin_memory: load into page-locked memory.
        multiprocessing_context: start method of the processes: ``"fork"``, ``"spawn"`` or
            ``"forkserver"``; by default the one of Python.
        seed: seed of the augmentations, the same on all ranks; drawn and shared by default.

    Raises:
        FileNotFoundError: images or label maps that do not exist, on the main process.
        OtherRankError: the same, on the other ranks.
        ValueError: a total batch size that is not a multiple of the number of ranks.
    """
    with raise_on_all_ranks():
        if comm.is_main_process():
            _check_files(dataset, "files of the training data")
    ranks = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % ranks:
        raise ValueError(
            f"dataloader.train.total_batch_size={total_batch_size} is not a multiple of the number "
            f"of ranks, {ranks}"
        )
    options: dict[str, Any] = {"pin_memory": pin_memory, "num_workers": num_workers}
    if num_workers > 0:  # torch refuses these without workers
        options |= {
            "prefetch_factor": prefetch_factor,
            "persistent_workers": persistent_workers,
            "multiprocessing_context": multiprocessing_context,
        }
    # Samplers read all records and no mask.
    sampled = dataset.without_masks() if isinstance(dataset, Records) else dataset
    is_wide = wide_images(dataset) if aspect_ratio_grouping else None
    # All ranks draw, as drawing is collective.
    drawn = shared_seed(), shared_seed()
    order = BatchOrder(
        lambda order_seed: iter(sampling.sampler(sampled, order_seed)),
        drawn[0] if sampling.seed is None else sampling.seed,
        Section(ranks, total_batch_size // ranks),
        comm.get_rank(),
        is_wide,
    )
    images_per_epoch = sampling.images_per_epoch(sampled)
    way = [type(sampling).__name__, images_per_epoch, aspect_ratio_grouping]
    way += getattr(sampling, "identity", ())
    kept = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    return TrainLoader(
        MappedDataset(kept, mapper, drawn[1] if seed is None else seed, is_wide),
        order,
        images_per_epoch=images_per_epoch,
        has_masks=has_masks(dataset),
        identity={"dataset": fingerprint(dataset), "sampling": digest(way)},
        given_seeds={
            n: s for n, s in (("seed", seed), ("sampling.seed", sampling.seed)) if s is not None
        },
        **options,
    )


def wide_images(dataset: Dataset) -> np.ndarray:
    """Return ``(N,)`` bool, whether each image is wider than high.

    Images without ``width`` and ``height`` are opened. One that cannot be read counts as not wide.
    """
    if isinstance(dataset, Records):
        sizes = dataset.sizes()
        return sizes[:, 0] > sizes[:, 1]
    return np.array([_is_wide(record) for record in dataset], bool)


def _is_wide(record: dict[str, Any]) -> bool:
    if "width" in record and "height" in record:
        return record["width"] > record["height"]
    try:
        width, height = read_image_size(record.get("file_name", ""))
    except ValueError:
        return False
    return width > height


def fingerprint(dataset: Dataset) -> str:
    """Return a digest of names, ids and sizes of the images, and of the classes in them.

    The folder of the images may change.
    """
    if isinstance(dataset, Records):
        return dataset.fingerprint()
    content = hashlib.sha256()
    for record in dataset:
        classes = [annotation.get("category_id") for annotation in record.get("annotations", ())]
        name = os.path.basename(str(record.get("file_name")))
        fields = [str(record.get(key)) for key in ("image_id", "width", "height")]
        content.update(str([name, *fields, *map(str, classes)]).encode())
    return content.hexdigest()[:32]


def has_masks(dataset: Dataset) -> bool:
    """Return whether an annotation of the dataset has a segmentation; True without annotations."""
    if isinstance(dataset, Records):
        return dataset.has_masks()
    has_annotations = False
    for record in dataset:
        for annotation in record.get("annotations", ()):
            has_annotations = True
            if annotation.get("segmentation"):
                return True
    return not has_annotations


def dataset_has_masks(names: str | Sequence[str]) -> bool:
    """Return whether a dataset of :func:`register_longtail_instances` has masks; True for others.

    Args:
        names: one or several registered datasets.
    """
    single = names if isinstance(names, str) else names[0] if len(names) == 1 else ""
    metadata = MetadataCatalog.get(single) if single in DatasetCatalog.list() else None
    return not isinstance(metadata, FileMetadata) or metadata.records().has_masks()


def check_test_files(names: str | Sequence[str]) -> None:
    """Check that the files of the test data exist, which are read only after training.

    Args:
        names: one or several registered datasets.

    Raises:
        FileNotFoundError: some do not.
    """
    quiet = logging.getLogger("detectron2.data")
    level, quiet.level = quiet.level, logging.WARNING  # its histogram of classes
    try:
        dataset = load_dataset(names, filter_empty=False)
    finally:
        quiet.level = level
    _check_files(dataset, "files of the test data")


def _check_files(dataset: Dataset, kind: str) -> None:
    """Look for all files; where a list of images names them, errors give its lines."""
    listed = not isinstance(dataset, Records) and len(dataset) > 0 and "listed_at" in dataset[0]
    places = {r["file_name"]: r["listed_at"] for r in dataset} if listed else {}
    check_files_exist(dataset_files(dataset), kind, places)
