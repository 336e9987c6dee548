"""Results of finished runs, and the tables that are made from them."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from recipes import Recipe, Table

from d2_seesaw.evaluation import compare_runs
from d2_seesaw.evaluation.analysis.intervals import t_quantile

RESULTS = Path(__file__).resolve().parent / "results"
"""Folder of the results that are part of the repository: one file for each recipe and seed."""

Difference = list[float | None]
"""Mean of the compared runs minus that of the baseline, and the ends of its 95 % interval."""


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


def check_start(table: Table, start: str | None) -> None:
    """Check that the results of a table have started from these weights.

    Args:
        table: The table.
        start: Hash of the weights that its runs start from; None without such weights.

    Raises:
        ValueError: a result has started from others.
    """
    for result in _results(table):
        if result.get("start") != start:
            raise ValueError(
                f"{result['recipe']}, seed {result['seed']}, started from the weights "
                f"{result.get('start')}, those of table {table.name!r} here are {start}. Train the "
                f"detector with version {result['commit']}, or delete the results of the table"
            )


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


def write_comparison(table: Table, output: Path, annotations: Path) -> None:
    """Compare the runs of a table with those of its baseline, and write the differences.

    The seeds are those that the baseline has finished, and recipes that miss one of them are left
    out. Runs of a seed are paired. Nothing is written without the folders of the runs.

    Args:
        table: The table.
        output: Folder of the runs.
        annotations: Annotations of the evaluations.
    """
    seeds = [seed for seed in table.seeds if is_finished(table.baseline, seed)]
    done = [r for r in table.recipes if seeds and all(is_finished(r, seed) for seed in seeds)]
    if len(done) < 2:
        return
    if table.baseline.data.semantic:
        differences = {r.name: _differences_of_seeds(table, r, seeds) for r in done[1:]}
        _write(table, {"seeds": seeds, "differences": differences})
        return
    runs = {r.name: [output / "runs" / f"{r.name}-{seed}" for seed in seeds] for r in done}
    if not all(folder.exists() for folders in runs.values() for folder in folders):
        return
    compared = compare_runs(runs, annotations)
    differences: dict[str, dict[str, Difference]] = {recipe.name: {} for recipe in done[1:]}
    for task in compared.tasks:
        for pair in task.pairs:
            for d in pair.metrics:
                ends = [None if math.isnan(v) else round(v, 3) for v in (d.mean, d.low, d.high)]
                differences[pair.compared][f"{task.task}/{d.name}"] = ends
    resamples = compared.resamples
    _write(table, {"seeds": seeds, "resamples": resamples, "differences": differences})


def _differences_of_seeds(table: Table, recipe: Recipe, seeds: list[int]) -> dict[str, Difference]:
    """Return mean differences from the baseline with Student's t intervals over paired seeds."""
    found: dict[str, Difference] = {}
    for name in table.metrics:
        results = ((read_result(r, seed) for r in (recipe, table.baseline)) for seed in seeds)
        pairs = ([metric(result or {}, name) for result in pair] for pair in results)
        values = [compared - baseline for compared, baseline in pairs]
        mean = statistics.mean(values)
        ends: list[float | None] = [None, None]
        if len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
            half = t_quantile(len(values) - 1) * error
            ends = [round(mean - half, 3), round(mean + half, 3)]
        found[name] = [round(mean, 3), *ends]
    return found


def _write(table: Table, content: dict[str, Any]) -> None:
    path = comparison_file(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def comparison_file(table: Table) -> Path:
    """Return the path of the differences of a table."""
    return RESULTS / "comparisons" / f"{table.name}.json"


def show(table: Table) -> str:
    """Return Markdown tables of the finished runs: metrics, and differences from the baseline.

    A ranked table has the recipes with the best first metric first.
    """
    columns = [name.replace("bbox/", "box ").rpartition("/")[2] for name in table.metrics]
    rows = [["recipe", "seeds", *columns, "CPU hours"]]
    means: dict[str, float] = {}
    for recipe in table.recipes:
        results = [r for seed in table.seeds if (r := read_result(recipe, seed)) is not None]
        if not results:
            continue
        cells = [mean_and_deviation([metric(r, name) for r in results]) for name in table.metrics]
        hours = f"{sum(result['cpu_seconds'] for result in results) / 3600:.1f}"
        if any(result.get("resumed") for result in results):
            hours = f"over {hours}"  # those before an interruption are not known
        rows.append([recipe.name, str(len(results)), *cells, hours])
        means[recipe.name] = statistics.mean(metric(r, table.metrics[0]) for r in results)
    ranks = sorted(means, key=lambda name: -means[name]) if table.ranked else list(means)
    rows[1:] = sorted(rows[1:], key=lambda row: ranks.index(row[0]))
    if found := _results(table):
        check_start(table, found[0].get("start"))
    if len(rows) == 1:
        return f"### {table.title}\n\nNot yet run."
    parts = [f"### {table.title}", _origin(table), _markdown(rows)]
    if comparison_file(table).exists():
        content = json.loads(comparison_file(table).read_text())
        rows = [[f"minus {table.baseline.name}", "seeds", *columns]]
        differences = content["differences"]
        for name in sorted(differences, key=ranks.index):
            cells = [_interval(differences[name][metric]) for metric in table.metrics]
            rows.append([name, str(len(content["seeds"])), *cells])
        parts.append(_markdown(rows))
    return "\n\n".join(parts)


def _origin(table: Table) -> str:
    """Return the command, the seeds and the machines of the finished runs."""
    results = _results(table)
    seeds = ", ".join(str(seed) for seed in sorted({r["seed"] for r in results}))
    known = {key: sorted({r[key] for r in results}) for key in ("processor", "torch", "commit")}
    processors, torch, commits = (" and ".join(values) for values in known.values())
    command = f"python benchmarks/evidence/run.py --tables {table.name}"
    return f"`{command}`, seeds {seeds}, {processors}, torch {torch}, commit {commits}."


def _results(table: Table) -> list[dict[str, Any]]:
    results = (read_result(r, seed) for r in table.recipes for seed in table.seeds)
    return [result for result in results if result is not None]


def _interval(difference: Difference) -> str:
    mean, low, high = difference
    if mean is None:
        return "n/a"
    if low is None or high is None:
        return f"{mean:+.1f}"
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _markdown(rows: list[list[str]]) -> str:
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
