"""Results of finished runs, and the tables that are made from them."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from recipes import Recipe, Table

RESULTS = Path(__file__).resolve().parent / "results"
"""Folder of the results that are part of the repository: one file for each recipe and seed."""


def result_file(recipe: Recipe, seed: int) -> Path:
    """Return the path of a run's result."""
    return RESULTS / f"{recipe.name}-{seed}.json"


def is_finished(recipe: Recipe, seed: int) -> bool:
    """Return whether this recipe, with everything that determines it, has a result."""
    return read_result(recipe, seed) is not None


def read_result(recipe: Recipe, seed: int) -> dict[str, Any] | None:
    """Return the result of a run, or None if there is none of this recipe."""
    path = result_file(recipe, seed)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    return result if result["fingerprint"] == recipe.fingerprint() else None


def write_result(recipe: Recipe, seed: int, result: dict[str, Any]) -> None:
    """Write the result of a run."""
    RESULTS.mkdir(exist_ok=True)
    content = {"recipe": recipe.name, "seed": seed, "fingerprint": recipe.fingerprint(), **result}
    result_file(recipe, seed).write_text(json.dumps(content, indent=1) + "\n")


def metric(result: dict[str, Any], name: str) -> float:
    """Return a metric, named ``task/metric``; ``nan`` if the evaluation has none."""
    task, _, key = name.partition("/")
    value = result[task].get(key)
    return math.nan if value is None else value


def mean_and_deviation(values: list[float]) -> str:
    """Format a mean and, for several values, their standard deviation."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "n/a"
    mean = f"{statistics.mean(known):.1f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def show(table: Table) -> str:
    """Return the Markdown table of the finished runs, with the hours that they took."""
    columns = [
        name.partition("/")[2] if name.startswith("se") else "box AP" for name in table.metrics
    ]
    rows = [["recipe", "seeds", *columns, "CPU hours"]]
    for recipe in table.recipes:
        results = [r for seed in table.seeds if (r := read_result(recipe, seed)) is not None]
        if not results:
            continue
        cells = [mean_and_deviation([metric(r, name) for r in results]) for name in table.metrics]
        hours = sum(result["cpu_seconds"] for result in results) / 3600
        rows.append([recipe.name, str(len(results)), *cells, f"{hours:.1f}"])
    rows.insert(1, ["---"] * len(rows[0]))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"### {table.title}", "", *lines])
