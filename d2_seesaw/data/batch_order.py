"""Order of the training data: the images of each batch of a rank, from any position on.

The order is a function of the seed and of what has been read. It is computed in the main process
from the sizes of the images, before any image is decoded, so the number of loading processes has no
effect. A position counts the samples of all ranks from the start of the training.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

Sample = tuple[int, int]
"""Position of a sample in the order of the data, and index of its image in the dataset."""


class Section(NamedTuple):
    """Part of a training with one number of ranks and one batch size.

    Attributes:
        ranks: number of ranks.
        batch_size: images of a batch of one rank.
        batches: batches that each rank has read.
    """

    ranks: int
    batch_size: int
    batches: int = 0


class BatchOrder(Sampler[list[Sample]]):
    """Endless batches of one rank, which continue where reading was counted last.

    All ranks share one stream of indices. Sample k goes to rank ``k % ranks``. With ``is_wide``,
    each rank collects wide and other images apart, as Detectron2 does, and yields a batch when one
    of the two collections is full.

    If the number of ranks or the batch size changes in a resumed training, the samples that no rank
    has read come first, in their order. Each image is then still shown once per epoch.

    Args:
        indices: returns the stream of indices of a seed from its start, the same in each call.
        seed: seed of the stream.
        section: ranks and batch size of this run.
        rank: this rank.
        is_wide: ``(N,)`` bool for each image of the dataset; None does not group images.

    Attributes:
        start: position of the first sample.
        sections: earlier parts of the training, and the current one at the end.
    """

    def __init__(
        self,
        indices: Callable[[int], Iterator[int]],
        seed: int,
        section: Section,
        rank: int,
        is_wide: np.ndarray | None,
    ) -> None:
        self.indices = indices
        self.seed = seed
        self.rank = rank
        self.is_wide = is_wide
        self.start = 0
        self.sections = [section]

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the next batches; nothing is counted."""
        *earlier, current = self.sections
        indices = islice(self.indices(self.seed), self.start, None)
        samples: Iterator[Sample] = enumerate(indices, self.start)
        for section in earlier:
            samples = self._unread(samples, section)
        share = islice(samples, self.rank, None, current.ranks)
        yield from islice(self._batches(share, current.batch_size), current.batches, None)

    def count_batch(self) -> None:
        """Count a batch that this rank has read, so that reading continues after it."""
        current = self.sections[-1]
        self.sections[-1] = current._replace(batches=current.batches + 1)

    @property
    def images_read(self) -> int:
        """Images that all ranks have read since the start of the training."""
        return self.start + sum(s.ranks * s.batch_size * s.batches for s in self.sections)

    def state_dict(self) -> dict[str, Any]:
        """Return seed and position as plain values."""
        sections = [list(section) for section in self.sections]
        return {"order_seed": self.seed, "start": self.start, "sections": sections}

    def load_state_dict(self, state: dict[str, Any], *, same_stream: bool = True) -> None:
        """Continue at a position, with its seed.

        Args:
            state: as :meth:`state_dict` returns it.
            same_stream: False if the stream of indices has changed. Its start is then skipped, as
                many samples as have been read.
        """
        current = self.sections[-1]._replace(batches=0)
        self.seed, self.start = state["order_seed"], state["start"]
        self.sections = [Section(*section) for section in state["sections"]]
        if not same_stream:
            self.start, self.sections = self.images_read, [current]
        elif self.sections[-1][:2] != current[:2]:
            self.sections.append(current)

    def _batches(self, samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
        collected: tuple[list[Sample], list[Sample]] = ([], [])
        for sample in samples:
            batch = collected[self._group(sample)]
            batch.append(sample)
            if len(batch) == size:
                yield batch.copy()
                batch.clear()

    def _group(self, sample: Sample) -> int:
        return 0 if self.is_wide is None else int(self.is_wide[sample[1]])

    def _unread(self, samples: Iterator[Sample], section: Section) -> Iterator[Sample]:
        """Yield the samples that the ranks of a section have not read, in their order."""
        unread: list[Sample] = []
        batches = [0] * section.ranks
        collected: list[Sequence[list[Sample]]] = [([], []) for _ in batches]
        while min(batches) < section.batches:
            for rank, sample in enumerate(islice(samples, section.ranks)):
                if batches[rank] == section.batches:
                    unread.append(sample)
                    continue
                batch = collected[rank][self._group(sample)]
                batch.append(sample)
                if len(batch) == section.batch_size:
                    batches[rank] += 1
                    batch.clear()
        waiting = [sample for groups in collected for batch in groups for sample in batch]
        yield from sorted(unread + waiting)
        yield from samples
