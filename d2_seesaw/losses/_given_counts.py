"""Class counts of the training split, which a loss is given and may read late."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ClassCounts = Sequence[int] | Callable[[], Sequence[int]]
"""C numbers, or a function that returns them."""

_SHOWN = 3


class GivenClassCounts(nn.Module):
    """Class counts of the training split, as a buffer that is saved with the model.

    A function is called when a loss first needs the counts, so a model can be built where the
    training data are missing. Until then, the buffer has the counts of the checkpoint that is
    loaded, or zeros. The counts that are given win over the counts of a checkpoint.

    Calling a function breaks a compiled graph. With ``fullgraph=True``, call this module once
    before.

    Args:
        num_classes: C.
        class_counts: C whole numbers, 0 or more, or a function that returns them.

    Raises:
        ValueError: the numbers are not that; for a function, when it is called.
    """

    counts: Tensor

    def __init__(self, num_classes: int, class_counts: ClassCounts) -> None:
        super().__init__()
        self._given = class_counts
        self._is_read = not callable(class_counts)
        self._is_known = self._is_read
        counts = (
            [0] * num_classes if callable(class_counts) else _checked(class_counts, num_classes)
        )
        self.register_buffer("counts", torch.tensor(counts, dtype=torch.int64))

    def forward(self) -> Tensor:
        """Return the ``(C,)`` int64 counts; call the function first if this has not been done."""
        if not self._is_read:
            torch.compiler.disable(self._read)()  # pyright: ignore[reportCallIssue]
        return self.counts

    def known(self) -> Tensor:
        """Return the counts that were read or loaded; call the function only if there are none."""
        return self.counts if self._is_known else self()

    def _read(self) -> None:
        given = self._given() if callable(self._given) else self._given
        counts = _checked(given, len(self.counts))
        self.counts.copy_(torch.tensor(counts, dtype=torch.int64))
        self._is_read = self._is_known = True

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._is_read, self._is_known = False, True
        if not callable(self._given):
            self._read()


def _checked(class_counts: Sequence[int], num_classes: int) -> list[int]:
    counts = [int(count) for count in class_counts]
    if len(counts) != num_classes:
        raise ValueError(
            f"class_counts must have {num_classes} numbers, one for each class, got {len(counts)}"
        )
    wrong = [f"{n} at {i}" for i, n in enumerate(class_counts) if n < 0 or n != int(n)]
    if wrong:
        raise ValueError(
            f"class_counts must be whole numbers, 0 or more, got {', '.join(wrong[:_SHOWN])}"
        )
    return counts
