r"""Draw the long-tail report of one evaluation, or of two side by side, from the files it wrote.

RUN is a folder with longtail_bbox.json or longtail_segm.json, or one such file. OTHER is compared
with RUN. The page is longtail.html in the current folder, or the file of --output; if only
--figures or --confusion are asked for, no page is written. --figures writes PNG files for papers.
--confusion writes the full confusion matrix of masks, or of boxes if RUN is longtail_bbox.json or
has no masks. With the images, the report of one run shows objects that were missed or confused.
Nothing is scored again. `d2-seesaw report compare` compares groups of runs, with intervals over
images and seeds.

Examples:
  d2-seesaw report output/seesaw/inference
  d2-seesaw report output/seesaw/inference --output seesaw.html --figures figures
  d2-seesaw report output/seesaw/inference --confusion confusion.png
  d2-seesaw report output/softmax/inference output/seesaw/inference \
      --names softmax Seesaw --output compare.html
  d2-seesaw report output/seesaw/inference --dataset lvis_v1_val
  d2-seesaw report output/seesaw/inference --annotations val.json --images images/val
  d2-seesaw report compare output/softmax_* -- output/seesaw_* --annotations val.json
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import detectron2.data.datasets  # noqa: F401  registers the built-in datasets
from detectron2.data import MetadataCatalog

from d2_seesaw.cli import add_image_options, command_parser, errors_in_one_line, say
from d2_seesaw.cli.report import compare_groups
from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.data.image_files import MAX_PIXELS
from d2_seesaw.data.saved_datasets import register_saved_datasets
from d2_seesaw.engine import load_config
from d2_seesaw.evaluation.analysis import LongTailAnalysis, analysis_path, read_analysis
from d2_seesaw.evaluation.analysis.comparison import Comparison, compare
from d2_seesaw.evaluation.analysis.confusion_matrix import write_confusion_matrix
from d2_seesaw.evaluation.lvis.annotations import annotation_file
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.report import write_comparison_report, write_evaluation_report, write_figures
from d2_seesaw.report.confusion_figure import confusion_heat_map
from d2_seesaw.report.drawing import save_chart
from d2_seesaw.report.figures import figure_paths
from d2_seesaw.utils.marks import claim_outputs

PAGE = Path("longtail.html")
_MATRICES = (".csv", ".png", ".pdf", ".svg")
OUTPUT_HELP = f"the page; default: {PAGE}, or none with --figures or --confusion alone"


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("report", __doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of an evaluation, or one longtail_*.json")
    add("other", type=Path, nargs="?", metavar="OTHER", help="a run to compare with the first")
    add("--names", nargs="+", metavar="NAME", help="names of the runs; default: from their folders")
    add("--output", type=Path, metavar="FILE", help=OUTPUT_HELP)
    add("--figures", type=Path, metavar="DIR", help="write PNG files to this folder")
    add("--confusion", type=Path, metavar="FILE", help="confusion matrix: .csv, .png or .pdf")
    add("--overwrite", action="store_true", help="replace files that this command has not written")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--dataset", metavar="NAME", help="registered dataset, to show its images")
    data.add_argument("--annotations", type=Path, metavar="FILE", help="or this file and --images")
    add("--images", type=Path, metavar="DIR", help="folder of the images")
    add("--config-file", metavar="FILE", help="a config that registers the dataset")
    add_image_options(parser, MAX_PIXELS)
    return parser


def read_run(path: Path) -> dict[str, LongTailAnalysis]:
    """Read the analyses of a run, by task; masks come first.

    Raises:
        ValueError: the folder has none.
    """
    files = [path]
    if path.is_dir():
        files = [Path(analysis_path(path, task)) for task in reversed(TASKS)]
    found = [read_analysis(file) for file in files if file.is_file() or file == path]
    if not found:
        raise ValueError(
            f"{path} has no {' or '.join(file.name for file in files)}. Evaluations write them; "
            "from saved results: d2-seesaw evaluate RESULTS --annotations FILE --output DIR"
        )
    return {analysis.task: analysis for analysis in found}


def run_names(given: list[str] | None, paths: list[Path]) -> list[str]:
    """Return one name per run: the given one or that of its folder, without ``inference``.

    Raises:
        ValueError: the number of names does not match the number of runs.
    """
    if given is not None:
        if len(given) != len(paths):
            raise ValueError(f"--names needs one name for each run, {len(paths)}, got {given}")
        return given
    folders = [path.resolve() if path.is_dir() else path.resolve().parent for path in paths]
    names = [f.parent.name if f.name.startswith("inference") else f.name for f in folders]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def images_of(args: argparse.Namespace, analyses: Iterable[LongTailAnalysis]) -> dict[str, Any]:
    """Return the options of ``write_evaluation_report`` for pictures, if images are given.

    Raises:
        ValueError: annotations or images are missing, or belong to another evaluation.
    """
    if not (args.annotations or args.images or args.dataset):
        return {}
    folder, annotations = args.images, args.annotations
    if args.dataset:
        if args.config_file:
            load_config(args.config_file, parts=())  # registers datasets
            register_saved_datasets(args.config_file)
        annotations = annotation_file(args.dataset)
        folder = folder or MetadataCatalog.get(args.dataset).get("image_root")
    if annotations is None or folder is None:
        missing = "--images DIR" if annotations else "--annotations FILE or --dataset NAME"
        raise ValueError(f"pictures need the annotations and the images: give {missing} too")
    if not Path(folder).is_dir():
        raise ValueError(f"the folder of images {folder} does not exist")
    images = read_annotations(annotations).images
    known = {image["id"] for image in images}
    strangers = [e.image_id for a in analyses for e in a.examples if e.image_id not in known]
    if strangers:
        raise ValueError(
            f"{annotations} does not belong to this evaluation: it has no image with id "
            f"{strangers[0]!r}"
        )
    limits = {"follow_links": args.follow_links, "max_pixels": args.max_pixels}
    return {"images": images, "image_root": folder, **limits}


def page_of(args: argparse.Namespace) -> Path | None:
    """Return the path of the page; None if only figures or a confusion matrix are asked for.

    Images are shown on the page alone, so that their options ask for it, too.
    """
    only_figures = (args.figures or args.confusion) and not (
        args.annotations or args.images or args.dataset
    )
    return args.output or (None if only_figures else PAGE)


def draw(args: argparse.Namespace) -> list[str]:
    """Write the page, if it is asked for, and the figures; return the paths of the files."""
    if args.other is None:
        return draw_one(args)
    if args.annotations or args.images or args.dataset:
        raise ValueError("a comparison of two runs shows no images: give them with one run only")
    if args.confusion:
        raise ValueError("--confusion is of one run: leave out OTHER")
    paths = [args.run, args.other]
    first, second = (read_run(path) for path in paths)
    tasks = [task for task in first if task in second]
    if not tasks:
        raise ValueError(
            f"the runs have no task in common: {args.run} has {list(first)}, {args.other} has "
            f"{list(second)}"
        )
    name, other = run_names(args.names, paths)
    compared = [compare(first[task], second[task], names=(name, other)) for task in tasks]
    claim(args, compared)
    figures = []
    if args.figures:
        figures = [path for c in compared for path in write_figures(args.figures, c)]
    page = page_of(args)
    if page is None:
        return figures
    write_comparison_report(page, compared, subtitle=f"{args.run} and {args.other}")
    return [str(page), *figures]


def draw_one(args: argparse.Namespace) -> list[str]:
    """Write the page and the figures of one run; return the paths of the files."""
    analyses = list(read_run(args.run).values())
    (name,) = run_names(args.names, [args.run])
    pictures = images_of(args, analyses)
    if args.confusion and args.confusion.suffix not in _MATRICES:
        known = f"{', '.join(_MATRICES[:-1])} or {_MATRICES[-1]}"
        raise ValueError(f"--confusion must end with {known}, got {args.confusion}")
    claim(args, analyses)
    figures = []
    if args.figures:
        figures = [path for a in analyses for path in write_figures(args.figures, a)]
    if args.confusion:
        figures.append(write_confusions(args.confusion, analyses[0]))
    page = page_of(args)
    if page is None:
        return figures
    title = f"Long-tail report: {name}"
    write_evaluation_report(page, analyses, title=title, subtitle=str(args.run), **pictures)
    return [str(page), *figures]


def claim(args: argparse.Namespace, shown: Sequence[LongTailAnalysis | Comparison]) -> None:
    """Check and record the files of a call before it writes one.

    Raises:
        FileExistsError: without ``--overwrite``, a file of the user's would be replaced.
    """
    paths = [path for path in (page_of(args), args.confusion) if path is not None]
    if args.figures:
        paths += [Path(path) for each in shown for path in figure_paths(args.figures, each)]
    claim_outputs(paths, overwrite=args.overwrite)


def write_confusions(path: Path, analysis: LongTailAnalysis) -> str:
    """Write the confusion matrix as a table or a picture; return the path.

    Raises:
        ValueError: the evaluation has no confusion matrix.
    """
    if path.suffix == ".csv":
        write_confusion_matrix(path, analysis)
    else:
        save_chart(confusion_heat_map(analysis), path)
    return str(path)


def main(arguments: list[str] | None = None) -> None:
    """Write the report and print the paths of its files."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["compare"]:
        compare_groups.main(arguments[1:])
        return
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line("report"):
        say("\n".join(draw(args)))
