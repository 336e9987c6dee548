"""The training data loader: Detectron2's, with the sampling decided by an object."""

from collections.abc import Callable, Iterator
from typing import Any

from detectron2.data import build_detection_train_loader

from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.sampling import Dataset, Sampling


class TrainLoader:
    """An endless stream of batches that knows how many images make an epoch.

    Args:
        batches: the loader itself; a batch is a list of dicts.
        images_per_epoch: images of one pass over the data, repeats included.
        total_batch_size: images of one step, over all ranks.
    """

    def __init__(self, batches: Any, images_per_epoch: float, total_batch_size: int) -> None:
        self.batches = batches
        self.images_per_epoch = images_per_epoch
        self.total_batch_size = total_batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return iter(self.batches)


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
    """
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
    batches = build(
        dataset,
        mapper=mapper,
        sampler=sampling.sampler(sampled),
        total_batch_size=total_batch_size,
        num_workers=num_workers,
        aspect_ratio_grouping=aspect_ratio_grouping,
        pin_memory=pin_memory,
        **worker_options,
    )
    return TrainLoader(batches, sampling.images_per_epoch(sampled), total_batch_size)
