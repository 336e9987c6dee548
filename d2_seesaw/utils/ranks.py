"""Error handling in distributed runs: all ranks fail together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
