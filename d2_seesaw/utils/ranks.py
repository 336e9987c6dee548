"""Values and errors that all ranks of a distributed run share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Value = TypeVar("Value")


class OtherRankError(RuntimeError):
    """Error for a failure of another rank."""


@contextmanager
def raise_on_all_ranks(distributed: bool = True) -> Iterator[None]:
    """Raise on every rank if the ``with`` block raised on any of them.

    Without it, the other ranks continue and wait for the failed rank until a timeout, which hides
    the error. Every rank must enter the block.

    Args:
        distributed: False ignores the process group and treats this process as the only one.

    Raises:
        OtherRankError: another rank raised; the message gives its error.
    """
    from detectron2.utils import comm

    own_error = None
    try:
        yield
    except Exception as error:
        own_error = error
    report = own_error and f"{type(own_error).__name__}: {own_error}"
    reports = comm.all_gather(report) if distributed else [report]
    if own_error is not None:
        raise own_error
    failed = [f"rank {rank}: {text}" for rank, text in enumerate(reports) if text]
    if failed:
        raise OtherRankError(f"Another rank failed, so all ranks stop. {'; '.join(failed)}")


def from_first_rank(value: Value) -> Value:
    """Return the first rank's value, which is pickled. Every rank must call this."""
    from detectron2.utils import comm

    of_ranks: Any = comm.all_gather(value)
    return of_ranks[0]


def shared_seed() -> int:
    """Return a random seed that the first rank draws. Every rank must call this."""
    from detectron2.utils import comm

    seed: Any = comm.shared_random_seed()
    return int(seed)
