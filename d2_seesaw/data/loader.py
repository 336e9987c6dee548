"""The training data loader: Detectron2's, with the sampling decided by an object."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data.build import worker_init_reset_seed
from detectron2.utils import comm

from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.bad_images import BadImages, MappedDataset, check_files_exist, dataset_files
from d2_seesaw.data.catalog import FileMetadata, load_dataset
from d2_seesaw.data.sampling import Dataset, Sampling
from d2_seesaw.utils.ranks import raise_on_all_ranks
from d2_seesaw.utils.signals import leave_signals_to_parent


class TrainLoader:
    """An endless stream of batches that knows how many images make an epoch.

    Args:
        batches: the loader itself; a batch is a list of dicts.
        images_per_epoch: images of one pass over the data, repeats included.
        total_batch_size: images of one step, over all ranks.
        has_masks: whether an annotation has a mask.

    Attributes:
        bad_images: images that were replaced because they could not be read; none by default.
    """

    def __init__(
        self,
        batches: Any,
        images_per_epoch: float,
        total_batch_size: int,
        has_masks: bool = True,
    ) -> None:
        self.batches = batches
        self.images_per_epoch = images_per_epoch
        self.total_batch_size = total_batch_size
        self.has_masks = has_masks
        self.bad_images = BadImages()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield batches.

        Raises:
            BadImageError: more bad images than ``bad_images.limit``.
        """
        for batch in self.batches:
            self.bad_images.collect(batch)
            yield batch


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
) -> TrainLoader:
    """Build the training loader over a dataset that is loaded once.

    Args:
        dataset: images as dicts in Detectron2's format.
        mapper: makes a model input from such a dict.
        sampling: how often each image is shown.
        total_batch_size: images of one step, over all ranks; a multiple of their number.
        num_workers: loading processes of each rank.
        aspect_ratio_grouping: batch images of like orientation together, to save padding.
        prefetch_factor: batches each process loads ahead.
        persistent_workers: keep the processes when the stream is read again. This and
            ``prefetch_factor`` have no effect without loading processes.
        pin_memory: load into page-locked memory.

    Raises:
        FileNotFoundError: images or label maps that do not exist, on the main process.
        OtherRankError: the same, on the other ranks.
    """
    with raise_on_all_ranks():
        if comm.is_main_process():
            check_files_exist(dataset_files(dataset), "files of the training data")
    build: Any = build_detection_train_loader  # its decorator hides its signature from checkers
    # Torch refuses these without workers, and not every version of Detectron2 holds them back.
    worker_options: dict[str, Any] = {}
    if num_workers > 0:
        worker_options = {
            "prefetch_factor": prefetch_factor,
            "persistent_workers": persistent_workers,
        }
    # Samplers read all records and no mask.
    sampled = dataset.without_masks() if isinstance(dataset, Records) else dataset
    sampler = sampling.sampler(sampled)
    kept = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    batches = build(
        MappedDataset(kept, mapper, seed=getattr(sampler, "_seed", 0)),
        mapper=None,
        sampler=sampler,
        total_batch_size=total_batch_size,
        num_workers=num_workers,
        aspect_ratio_grouping=aspect_ratio_grouping,
        pin_memory=pin_memory,
        **worker_options,
    )
    loader: Any = batches.dataset if aspect_ratio_grouping else batches
    loader.worker_init_fn = _init_worker
    epoch = sampling.images_per_epoch(sampled)
    return TrainLoader(batches, epoch, total_batch_size, has_masks(dataset))


def _init_worker(worker_id: int) -> None:
    leave_signals_to_parent()
    worker_init_reset_seed(worker_id)


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
    check_files_exist(dataset_files(dataset), "files of the test data")
