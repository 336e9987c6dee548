"""What an evaluator of semantic segmentation asks the data for, as objects for a config."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from d2_seesaw.data.datasets import load_dataset
from d2_seesaw.data.semantic.label_maps import read_labels
from d2_seesaw.data.semantic.pixel_counts import class_pixel_counts


class LabelReader:
    """:func:`~d2_seesaw.data.read_labels` as an object: maps a record to its ``(H, W)`` labels.

    Args:
        ignore_label: stands for pixels without a class.
    """

    def __init__(self, ignore_label: int = 255) -> None:
        self.ignore_label = ignore_label

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """The labels of one record; see ``read_labels`` for what it refuses."""
        return read_labels(record, self.ignore_label)


class ClassPixels:
    """Pixels of each class in registered data sets, counted when first asked for and then cached.

    Args:
        names: one or several registered names, usually of the training split.
    """

    def __init__(self, names: str | Sequence[str]) -> None:
        self.names = names

    def __call__(self) -> np.ndarray:
        """Count.

        Returns:
            ``(C,)`` int64 pixels, C as in the metadata of the (first) data set.

        Raises:
            ValueError: label maps that cannot be read.
            FileNotFoundError: the data are not there, with every place that is expected.
        """
        first = self.names if isinstance(self.names, str) else self.names[0]
        dataset = load_dataset(self.names, filter_empty=False)
        metadata = MetadataCatalog.get(first)
        counts = class_pixel_counts(
            dataset,
            len(metadata.stuff_classes),
            metadata.ignore_label,
            synchronize=False,  # the evaluator asks on its main rank alone
        )
        return counts.sum(axis=0)
