"""Work on many pictures in several processes."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import TypeVar

import cv2

Job = TypeVar("Job")
Made = TypeVar("Made")


def in_processes(
    work: Callable[[Job], Made], jobs: list[Job], processes: int, chunk: int
) -> Iterator[Made]:
    """Yield the results in the order of the jobs."""
    if processes == 1 or len(jobs) < 2:
        yield from map(work, jobs)
        return
    with multiprocessing.Pool(processes, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        yield from pool.imap(work, jobs, chunksize=chunk)
