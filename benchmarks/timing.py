"""Shared functions of the benchmarks: time and memory of a step, and results as JSON.

A GPU runs asynchronously, so its steps are timed by events in its stream. Candidates take turns
within each round, so that other load on the machine affects all of them. Ratios are computed within
a round.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], object]
Row = dict[str, Any]
Times = dict[str, list[float]]
"""Milliseconds of each candidate in each round."""


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--json``."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def device_name(device: str) -> str:
    """Return the name of the GPU, or the architecture of the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()})"


def milliseconds(step: Step, device: str, repeats: int = 1) -> float:
    """Time ``repeats`` calls; return milliseconds per call."""
    if torch.device(device).type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return 1e3 * (time.perf_counter() - start) / repeats
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(repeats):
        step()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / repeats


def measure(
    steps: dict[str, Step], rounds: int, device: str, *, budget: float = 30.0, warm_up: int = 2
) -> Times:
    """Time candidates in turn.

    Args:
        steps: candidates by name.
        rounds: number of turns of each candidate, after the uncounted warm-up.
        device: device of the steps.
        budget: milliseconds of one turn; shorter steps are repeated to fill it.
        warm_up: uncounted calls, the last of which tells how often a step is repeated; without one
            it is not repeated.
    """
    repeats = dict.fromkeys(steps, 1)
    for name, step in steps.items():
        for _ in range(warm_up):
            repeats[name] = max(1, round(budget / max(milliseconds(step, device), 1e-3)))
    times: Times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(milliseconds(step, device, repeats[name]))
    return times


def ratios(times: Times, numerator: str, denominator: str) -> list[float]:
    """Divide the times of two candidates round by round."""
    return [a / b for a, b in zip(times[numerator], times[denominator], strict=True)]


def quartiles(values: Iterable[float]) -> dict[str, float]:
    """Return the median and both quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low": low, "high": high}


def peak_megabytes(new_step: Callable[..., Step], arguments: tuple[Any, ...], device: str) -> float:
    """Measure the growth of peak memory during one step.

    Args:
        new_step: top-level function that makes the step and its data.
        arguments: arguments of ``new_step``.
        device: device of the step. On the CPU, memory is measured in a separate process.
    """
    if torch.device(device).type == "cuda":
        new_step(*arguments)()  # warm-up: libraries allocate their workspaces
        step = new_step(*arguments)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    processes = multiprocessing.get_context("spawn")
    answer = processes.Queue()
    threads = torch.get_num_threads()
    child = processes.Process(target=_answer_peak, args=(new_step, arguments, threads, answer))
    child.start()
    megabytes = answer.get()
    child.join()
    return megabytes


def _answer_peak(
    new_step: Callable[..., Step], arguments: tuple[Any, ...], threads: int, answer: Any
) -> None:
    torch.set_num_threads(threads)
    step = new_step(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which includes making the data
    before = _resident_kilobytes("VmRSS")
    step()
    answer.put((_resident_kilobytes("VmHWM") - before) * 1024 / 1e6)


def _resident_kilobytes(field: str) -> int:
    """Return the memory of this process now (``VmRSS``) or at its peak (``VmHWM``); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def write_json(path: Path | None, benchmark: str, device: str, rows: list[Row]) -> None:
    """Write the results of a benchmark if a path is given."""
    if path is None:
        return
    result = {
        "benchmark": benchmark,
        "device": device_name(device),
        "torch": torch.__version__,
        "rows": rows,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
