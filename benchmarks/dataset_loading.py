"""Time and memory of loading annotations: this project's first and second start, and Detectron2.

    python benchmarks/dataset_loading.py
    python benchmarks/dataset_loading.py --annotations 1270141 --rounds 1

The file is written by longtail_json.py into a temporary folder, together with the cached copy.
Every load runs in its own process; the candidates take turns within each round. This project builds
records when they are read, so each load has three stages: *load* returns the records, *walk* reads
each of them once, and *hold* makes a list of dicts and puts it into Detectron2's
``DatasetFromList``, which pickles them. The training loader of this project needs the first stage,
Detectron2's the first and the last. Seconds are the processor time of all stages up to this one,
the median over the rounds. Memory is the growth of the process's peak up to this stage. *First
start* parses the JSON and caches the table, *second start* reads the cached copy.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from longtail_json import write_longtail_json

LOADS = ("Detectron2", "first start", "second start")
STAGES = ("load", "walk", "hold")


def load(which: str, path: str) -> dict[str, float]:
    """Load in this process; return seconds and growth in GB up to each stage."""
    from detectron2.data import DatasetFromList
    from detectron2.data.datasets.lvis import load_lvis_json

    from d2_seesaw.data import load_longtail_json
    from d2_seesaw.data.annotations import reader

    reader._LEAST_BYTES_KEPT = 0  # also cache small files
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found: dict[str, float] = {}
    records: Any = None
    for stage in STAGES:
        if stage == "load":
            records = (
                load_lvis_json(path, "") if which == LOADS[0] else load_longtail_json(path, "")
            )
        elif stage == "walk":
            found["images"] = sum(len(record["annotations"]) > 0 for record in records)
        else:
            records = records if which == LOADS[0] else records.to_list()
            records = DatasetFromList(records, copy=False)
        found[f"{stage} s"] = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[f"{stage} GB"] = (peak - before) / 1e6
    return found


def load_apart(which: str, path: Path, cache: Path) -> dict[str, float]:
    """Load in a separate process."""
    if which == "first start":
        for kept in cache.glob("*/annotations_*.npz"):
            kept.unlink()
    command = [sys.executable, __file__, "--load", which, str(path)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotations", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS)
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(*arguments.load)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lvis.json"
        write_longtail_json(path, arguments.annotations)
        size = path.stat().st_size / 1e6
        print(f"{arguments.annotations:,} annotations, {size:,.0f} MB, {arguments.rounds} rounds")
        found = {which: [] for which in arguments.loads}
        for _ in range(arguments.rounds):
            for which in arguments.loads:
                found[which].append(load_apart(which, path, Path(folder) / "cache"))
        for kept in (Path(folder) / "cache").glob("*/annotations_*.npz"):
            print(f"kept copy: {kept.stat().st_size / 1e6:,.0f} MB")
    print(f"  {'':<14}" + "".join(f"{s + ' s':>10}{s + ' GB':>10}" for s in STAGES))
    for which, rounds in found.items():
        keys = [f"{stage} {unit}" for stage in STAGES for unit in ("s", "GB")]
        medians = [statistics.median(r[key] for r in rounds) for key in keys]
        print(f"  {which:<14}" + "".join(f"{m:10.2f}" for m in medians))


if __name__ == "__main__":
    main()
