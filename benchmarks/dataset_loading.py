"""Time and memory of loading annotations: ours, first and second start, and Detectron2's.

    python benchmarks/dataset_loading.py
    python benchmarks/dataset_loading.py --annotations 1270141 --rounds 1

The file is that of longtail_json.py, written into a temporary folder together with the kept copy.
Every load has a process of its own; in each round they take turns. Seconds are processor time, the
median over the rounds; memory is the largest the process had, less what it had before the load, of
which the dicts that both return are a part. *First start* parses the JSON and keeps the columns,
*second start* reads those.
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

from longtail_json import write_longtail_json

LOADS = ("Detectron2", "first start", "second start")


def load(which: str, path: str) -> dict[str, float]:
    """Load in this process; processor and wall-clock seconds and the largest growth in GB."""
    from detectron2.data.datasets.lvis import load_lvis_json

    from d2_seesaw.data import load_longtail_json
    from d2_seesaw.data.annotations import reader

    reader._LEAST_BYTES_KEPT = 0  # small files, too, are kept here
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, start = time.perf_counter(), time.process_time()
    records = load_lvis_json(path, "") if which == LOADS[0] else load_longtail_json(path, "")
    return {
        "seconds": time.process_time() - start,
        "wall": time.perf_counter() - wall,
        "GB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6,
        "images": len(records),
    }


def load_apart(which: str, path: Path, cache: Path) -> dict[str, float]:
    """The same in a process of its own."""
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
        found = {which: [] for which in LOADS}
        for _ in range(arguments.rounds):
            for which in LOADS:
                found[which].append(load_apart(which, path, Path(folder) / "cache"))
        (kept,) = (Path(folder) / "cache").glob("*/annotations_*.npz")
        print(f"kept copy: {kept.stat().st_size / 1e6:,.0f} MB")
    median = {
        which: {key: statistics.median(r[key] for r in rounds) for key in ("seconds", "wall", "GB")}
        for which, rounds in found.items()
    }
    base = median[LOADS[0]]
    print(f"  {'':<14}{'s, processor':>13}{'s, clock':>10}{'GB':>8}   of Detectron2's time, memory")
    for which, m in median.items():
        ratios = f"{m['seconds'] / base['seconds']:.2f}, {m['GB'] / base['GB']:.2f}"
        print(f"  {which:<14}{m['seconds']:13.2f}{m['wall']:10.2f}{m['GB']:8.2f}   {ratios}")


if __name__ == "__main__":
    main()
