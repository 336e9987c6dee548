r"""Compare groups of runs: is the difference more than noise?

Each group is a method, trained with one or several seeds; -- separates the groups, and the first
one is the baseline. A run is a folder of an evaluation (or of a run with an inference folder) with
lvis_instances_results.json or instances_predictions.npz, or a file such as the results.json of
`d2-seesaw predict --threshold 0`, whose images are matched by file name. With two or more runs in a
group, the 95 % intervals cover the images and the seeds. With one they cover the images only. Runs
are paired by the last number in their names, if both groups have the same numbers.

Writes comparison.md, comparison.tex, comparison.json, comparison.html and figures.

Examples:
  d2-seesaw report compare output/softmax_* -- output/seesaw_* --annotations val.json
  d2-seesaw report compare A/* -- B/* -- C/* --names softmax Seesaw ours \
      --dataset lvis_v1_val --output comparison
"""

import argparse
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import detectron2.data.datasets  # noqa: F401  registers the built-in datasets

from d2_seesaw.cli import command_parser, count, errors_in_one_line, say, seed
from d2_seesaw.data.saved_datasets import register_saved_datasets
from d2_seesaw.engine import load_config
from d2_seesaw.evaluation.analysis.compared_runs import run_name
from d2_seesaw.evaluation.analysis.run_comparison import RESAMPLES, compare_runs
from d2_seesaw.evaluation.lvis.annotations import annotation_file, registered_train_images
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.report.comparison_figures import interval_figure_paths, write_interval_figures
from d2_seesaw.report.comparison_page import write_run_comparison_report
from d2_seesaw.report.comparison_tables import latex, markdown, metric_table, notes
from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.marks import check_replaceable, claim_outputs

_SEPARATOR = "\0--"
_TEXTS = ("md", "tex", "json", "html")
FORMATS = (*_TEXTS, "png", "svg", "pdf")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("report compare", __doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="runs of the baseline -- runs of another group ...")
    add("--names", nargs="+", metavar="NAME", help="names of the groups; default: from their runs")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--annotations", type=Path, metavar="FILE", help="of the evaluations")
    data.add_argument("--dataset", metavar="NAME", help="or the name of a registered dataset")
    add("--config-file", metavar="FILE", help="a config that registers the dataset")
    add("--train-annotations", metavar="FILE", help="training annotations, for APr, APc and APf")
    add("--task", nargs="+", choices=TASKS, help="default: all that the detections support")
    add("--max-dets-per-image", type=count, default=300, metavar="N", help="default: 300")
    add("--unpaired", action="store_true", help="do not pair the runs by seed")
    add(
        "--group-by",
        metavar="REGEX",
        help="draw images together whose file names match with the same text, such as the frames "
        "of a video; '^[^/]+' groups by the first folder",
    )
    add("--resamples", type=count, default=RESAMPLES, metavar="N", help=f"default: {RESAMPLES}")
    add("--seed", type=seed, default=0, help="seed of the resampling; default: 0")
    add(
        "--output",
        type=Path,
        default=Path("comparison"),
        metavar="DIR",
        help="default: %(default)s",
    )
    add(
        "--format", nargs="+", choices=FORMATS, default=FORMATS, help="files to write; default: all"
    )
    add("--overwrite", action="store_true", help="replace files that this command has not written")
    return parser


def split_groups(runs: Sequence[str]) -> list[list[str]]:
    """Return the runs of each group.

    Raises:
        ValueError: there are fewer than two groups, or an empty one.
    """
    groups: list[list[str]] = [[]]
    for run in runs:
        if run == _SEPARATOR:
            groups.append([])
        else:
            groups[-1].append(run)
    if len(groups) < 2 or not all(groups):
        raise ValueError(
            "give the runs of two groups with -- between them, such as A/* -- B/*; got "
            + " -- ".join(" ".join(group) or "nothing" for group in groups)
        )
    return groups


def group_names(given: Sequence[str] | None, groups: Sequence[Sequence[str]]) -> list[str]:
    """Return one name for each group: the given one, or what its runs have in common.

    Raises:
        ValueError: the number of names does not match the groups, or two are equal.
    """
    names = list(given or [_common_name(group) for group in groups])
    if len(names) != len(groups):
        raise ValueError(f"--names needs one name for each of {len(groups)} groups, got {names}")
    if len(set(names)) < len(names):
        raise ValueError(f"the groups need different names, got {names}: give --names")
    return names


def _common_name(runs: Sequence[str]) -> str:
    """Return the beginning that the names of runs share, or else the name of their folder."""
    names = [run_name(run) for run in runs]
    if len(names) == 1:
        return names[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in same).rstrip("0123456789").rstrip("_-. ")
    if common and common.lower() not in ("seed", "run"):
        return common
    folder = Path(runs[0]).resolve()
    folder = folder.parent if folder.name.startswith("inference") else folder
    return folder.parent.name


def write_comparison(args: argparse.Namespace) -> list[str]:
    """Compare the runs, print the table, and return the paths of the files.

    Raises:
        FileExistsError: without ``--overwrite``, a file of the user's would be replaced.
    """
    texts = [args.output / f"comparison.{suffix}" for suffix in args.format if suffix in _TEXTS]
    if not args.overwrite:
        check_replaceable(texts)  # before the runs are compared, which takes longer
    groups = split_groups(args.runs)
    names = group_names(args.names, groups)
    if args.config_file:
        load_config(args.config_file, parts=())  # registers datasets
        register_saved_datasets(args.config_file)
    comparison = compare_runs(
        dict(zip(names, groups, strict=True)),
        annotation_file(args.dataset) if args.dataset else args.annotations,
        tasks=args.task,
        train_image_counts=args.train_annotations,
        registered_counts=registered_train_images(args.dataset) if args.dataset else None,
        limits=DetectionLimits(per_image=args.max_dets_per_image),
        paired=False if args.unpaired else None,
        group_by=args.group_by,
        resamples=args.resamples,
        seed=args.seed,
    )
    for task in comparison.tasks:
        table = metric_table(task, comparison.groups)
        widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
        for row in (table.header, *table.rows):
            cells = [row[0].ljust(widths[0])] + [
                c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)
            ]
            say(f"{table.title}  " + "  ".join(cells))
        for pair in task.pairs:
            say("\n".join(notes(comparison, task, pair)))
    figures = [suffix for suffix in args.format if suffix not in _TEXTS]
    drawn = interval_figure_paths(args.output, comparison, formats=figures)
    claim_outputs([*texts, *drawn], overwrite=args.overwrite)
    written = {
        "md": lambda path: write_text(path, markdown(comparison)),
        "tex": lambda path: write_text(path, latex(comparison)),
        "json": lambda path: write_text(
            path, json.dumps(comparison.to_json(), indent=1, allow_nan=False)
        ),
        "html": lambda path: write_run_comparison_report(path, comparison),
    }
    paths = []
    for suffix in dict.fromkeys(args.format):
        if suffix in written:
            paths.append(str(args.output / f"comparison.{suffix}"))
            written[suffix](paths[-1])
        else:
            paths += write_interval_figures(args.output, comparison, formats=[suffix])
    return paths


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; ``runs`` has the separators of the groups, for :func:`split_groups`."""
    # argparse drops "--" and takes what follows as names of runs.
    marked = [_SEPARATOR if argument == "--" else argument for argument in arguments]
    return argument_parser().parse_args(marked)


def main(arguments: Sequence[str]) -> None:
    """Compare the runs and print the table and the paths of the files."""
    args = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")  # to stderr
    logging.getLogger("d2_seesaw").setLevel(logging.INFO)  # not the lines of other packages
    with errors_in_one_line("report compare"):
        say("\n".join(write_comparison(args)))
