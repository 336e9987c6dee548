"""LVIS metrics of peers beside this project's: time, memory and exactness by trait of the data.

    python -m benchmarks.lvis_peers
    python -m benchmarks.lvis_peers --images 19809 --rounds 1 --tasks bbox
    python -m benchmarks.lvis_peers --traits 20

Engines take turns in one process, on one thread; times are processor times, and the ratios to
this project's are of the same round. Each engine's memory is measured in a process of its own.
``--traits`` evaluates random small datasets with one trait each, as the tests do, and counts those
for which an engine's precision equals lvis-api's within 1e-12.
"""

import argparse
import functools
import gc
import importlib.util
import resource
import time
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.lvis_engines import Prepare, installed_peers, lvis_api, ours, ours_without_numba
from benchmarks.lvis_metrics import Cost, generate, in_new_process
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.detections import Detections
from tests.evaluation.federated_cases import TRAITS, federated_case

ROUNDING = 1e-12
NAN = "NaN scores"
OTHER_LIMIT = "over the limit"  # a trait whose limit is not that of LVIS


def times(
    engines: dict[str, Prepare], case: tuple[Any, ...], rounds: int
) -> dict[str, list[float]]:
    """Time engines in turn; return the processor seconds of each round."""
    runs = {name: prepare(*case) for name, prepare in engines.items()}
    gc.freeze()  # the garbage of one engine's input must not slow down another
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return seconds


def memory(prepare: Prepare, case: tuple[Any, ...]) -> Cost:
    """Measure the growth of peak memory of a run after its input was prepared."""
    run = prepare(*case)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    try:
        precision = run()
    except MemoryError:
        return Cost(np.nan, np.inf, {0: np.nan})
    seconds = time.perf_counter() - start
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    values = precision[..., 0]
    return Cost(seconds, added / 2**20, {0: float(values[values > -1].mean())})


def print_times(engines: dict[str, Prepare], case: tuple[Any, ...], rounds: int) -> None:
    """Print a row for each engine."""
    # First, because threads of an engine do not survive in the fork of a process that used it.
    costs = {
        name: in_new_process(functools.partial(memory, prepare, case))
        for name, prepare in engines.items()
    }
    enough = {name: p for name, p in engines.items() if np.isfinite(costs[name].gigabytes)}
    for name in engines.keys() - enough.keys():
        print(f"{name} is left out: it needs more memory than there is")
    seconds = times(enough, case, rounds)
    print("| engine | seconds | this project / engine (quartiles) | added GB | AP |")
    print("|---|---|---|---|---|")
    for name in enough:
        ratio = np.divide(seconds["this project"], seconds[name])
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        print(
            f"| {name} | {np.median(seconds[name]):.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {costs[name].gigabytes:.2f} | {100 * costs[name].category_ap[0]:.4f} |",
            flush=True,
        )


def outcome(prepare: Prepare, case: tuple[Any, ...], expected: np.ndarray) -> str:
    """Return whether an engine is "right" or "wrong" about a case, or has "refused" it."""
    try:
        found = prepare(*case)()
    except BaseException as error:  # a panic of Rust is not an Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return "refused"
    same = found.shape == expected.shape and (np.abs(found - expected) <= ROUNDING).all()
    return "right" if same else "wrong"


def cases_with(trait: str, number: int) -> list[tuple[dict[str, Any], Detections]]:
    """Generate datasets with a trait, which is of the tests or NaN."""
    found = []
    for seed in range(number):
        data, results = federated_case(seed, *([] if trait == NAN else [trait]))
        detections = Detections.from_results(results)
        if trait == NAN:
            detections.scores[seed % 5 :: 5] = np.nan
        if len(detections):  # lvis-api does not read an empty list
            found.append((data, detections))
    return found


def print_traits(engines: dict[str, Prepare], number: int) -> None:
    """Print for each trait how many of the cases of both tasks each engine gets right."""
    print("| trait | cases | " + " | ".join(engines) + " |")
    print("|---" * (2 + len(engines)) + "|")
    for trait in (*(t for t in TRAITS if t != OTHER_LIMIT), NAN):
        counts: dict[str, Counter[str]] = {name: Counter() for name in engines}
        cases = [(*case, task) for case in cases_with(trait, number) for task in TASKS]
        for case in cases:
            expected = lvis_api(*case)()
            for name, prepare in engines.items():
                counts[name][outcome(prepare, case, expected)] += 1
        if cases:
            print(
                f"| {trait} | {len(cases)} | {' | '.join(map(cell, counts.values()))} |", flush=True
            )


def cell(counts: Counter[str]) -> str:
    """Return the entry of the table for the outcomes of one engine."""
    refused = f", {counts['refused']} refused" if counts["refused"] else ""
    return f"{counts['right']}{refused}"


def close_absent_categories(data: dict[str, Any]) -> None:
    """Remove categories without an object from the non-exhaustive sets; vernier refuses them."""
    present = {(a["image_id"], a["category_id"]) for a in data["annotations"]}
    for image in data["images"]:
        loose = image["not_exhaustive_category_ids"]
        image["not_exhaustive_category_ids"] = [k for k in loose if (image["id"], k) in present]


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=2000, help="19,809 is all of LVIS v1 val")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS)
    add("--rounds", type=int, default=7)
    add("--peers", nargs="*", help="only these")
    add("--traits", type=int, metavar="N", help="compare N datasets of each trait instead")
    args = parser.parse_args()
    peers = installed_peers()
    engines = {"this project": ours}
    if importlib.util.find_spec("numba"):
        engines["this project without numba"] = ours_without_numba
    engines |= {n: p for n, p in peers.items() if args.peers is None or n in args.peers}
    if args.traits:
        print_traits(engines, args.traits)
        return
    for task in args.tasks:
        data, detections = generate(args.images, 300, masks=task == "segm")
        close_absent_categories(data)
        print(f"\n{args.images:,} images x 300, {task}\n")
        print_times(engines, (data, detections, task), args.rounds)


if __name__ == "__main__":
    main()
