"""Training batches on their device, copied while the step before them runs."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from detectron2.structures import BitMasks, Boxes, Instances, RotatedBoxes
from torch import Tensor

Batch = list[dict[str, Any]]


class _Copied(NamedTuple):
    """Batch whose copies may still be under way.

    Attributes:
        batch: samples with their tensors on the device.
        tensors: the tensors that were copied.
        ready: event after the copies; None if there is nothing to wait for.
    """

    batch: Batch
    tensors: list[Tensor]
    ready: torch.cuda.Event | None


def read_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on a device, each after the copies of the next one have been started.

    Tensors, boxes, bit masks and the fields of ``Instances`` are copied, in new dictionaries.
    Polygons stay on the CPU, where they are rasterized. On a GPU the copies are made from
    page-locked memory in a stream of their own, beside the kernels of the current step; the host
    does not wait for them. The memory of one more batch is needed.

    Errors of the next batch are raised when it is asked for, after the one before has been used.

    Args:
        batches: batches as a dataset mapper makes them.
        device: device of the model.
    """
    copies = torch.cuda.Stream(device) if device.type == "cuda" else None
    source = iter(batches)
    error: Exception | None = None
    waiting: _Copied | None = None
    is_first = True
    while is_first or waiting is not None:
        current, waiting = waiting, None
        try:
            waiting = _start(next(source), device, copies)
        except StopIteration:
            pass
        except Exception as raised:
            error = raised
        if current is not None:
            yield _finish(current, device)
        if error is not None:
            raise error
        is_first = False


def _start(batch: Batch, device: torch.device, copies: torch.cuda.Stream | None) -> _Copied:
    """Start the copies of a batch."""
    tensors: list[Tensor] = []

    def move(tensor: Tensor) -> Tensor:
        if tensor.device == device:
            return tensor
        if copies is not None and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # torch keeps it until the copy is done
        tensors.append(tensor.to(device, non_blocking=True))
        return tensors[-1]

    with torch.cuda.stream(copies):  # None leaves the stream as it is
        moved = [{key: _moved(value, move) for key, value in sample.items()} for sample in batch]
    if copies is None:
        return _Copied(moved, tensors, None)
    ready = torch.cuda.Event()
    ready.record(copies)
    return _Copied(moved, tensors, ready)


def _moved(value: Any, move: Any) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, Instances):
        fields = {name: _moved(field, move) for name, field in value.get_fields().items()}
        return Instances(value.image_size, **fields)
    if isinstance(value, Boxes | RotatedBoxes | BitMasks):  # their `to` always waits for the copy
        moved = copy.copy(value)
        moved.tensor = move(value.tensor)
        return moved
    return value


def _finish(copied: _Copied, device: torch.device) -> Batch:
    """Let the current stream wait for the copies of a batch, and return it."""
    if copied.ready is not None:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(copied.ready)
        for tensor in copied.tensors:
            # It belongs to the other stream, which may write to it once nothing refers to it.
            tensor.record_stream(stream)
    return copied.batch
