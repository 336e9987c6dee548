r"""Draw the long tail of an evaluation, or of two side by side, from the files that it wrote.

    python tools/report.py output/seesaw/inference
    python tools/report.py output/seesaw/inference --output seesaw.html --figures figures
    python tools/report.py output/softmax/inference output/seesaw/inference \
        --names softmax Seesaw --output compare.html
    python tools/report.py output/seesaw/inference --dataset lvis_v1_val
    python tools/report.py output/seesaw/inference --annotations val.json --images images/val

RUN is a folder with longtail_bbox.json or longtail_segm.json, or one such file. The second run is
compared with the first. --figures writes PNG files for papers. With the images, the page of one run
shows objects that it takes for others, or misses. Nothing is scored again.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import detectron2.data.datasets  # noqa: F401  registers the built-in datasets
from detectron2.data import MetadataCatalog

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.engine import load_config
from d2_seesaw.evaluation.analysis import LongTailAnalysis, analysis_path, read_analysis
from d2_seesaw.evaluation.analysis.comparison import compare
from d2_seesaw.evaluation.lvis.annotations import annotation_file
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.report import write_comparison_report, write_evaluation_report, write_figures


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of an evaluation, or one longtail_*.json")
    add("other", type=Path, nargs="?", metavar="OTHER", help="a run to compare with the first")
    add("--names", nargs="+", metavar="NAME", help="of the runs; default: from their folders")
    add("--output", type=Path, default=Path("longtail.html"), help="default: longtail.html")
    add("--figures", type=Path, metavar="DIR", help="write PNG files here")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--dataset", metavar="NAME", help="show pictures of this registered dataset")
    data.add_argument("--annotations", type=Path, metavar="FILE", help="or of these, with --images")
    add("--images", type=Path, metavar="DIR", help="folder of their images")
    add("--config-file", metavar="FILE", help="a config that registers the dataset")
    return parser


def read_run(path: Path) -> dict[str, LongTailAnalysis]:
    """The analyses of a run by their task, masks first.

    Raises:
        ValueError: there are none.
    """
    files = [path]
    if path.is_dir():
        files = [Path(analysis_path(path, task)) for task in reversed(TASKS)]
    found = [read_analysis(file) for file in files if file.is_file() or file == path]
    if not found:
        raise ValueError(
            f"{path} has no {' or '.join(file.name for file in files)}. Evaluations write them; "
            "from saved results: tools/evaluate.py RESULTS --annotations FILE --output DIR"
        )
    return {analysis.task: analysis for analysis in found}


def run_names(given: list[str] | None, paths: list[Path]) -> list[str]:
    """One name for each run: those given, or folders' names, of which "inference" says nothing.

    Raises:
        ValueError: as many were not given.
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
        ValueError: a part of them is not given, is not there, or is of another evaluation.
    """
    if not (args.annotations or args.images or args.dataset):
        return {}
    folder, annotations = args.images, args.annotations
    if args.dataset:
        if args.config_file:
            load_config(args.config_file)  # registers datasets on the way
        annotations = annotation_file(args.dataset)
        folder = folder or MetadataCatalog.get(args.dataset).get("image_root")
    if annotations is None or folder is None:
        missing = "--images DIR" if annotations else "--annotations FILE or --dataset NAME"
        raise ValueError(f"pictures need the annotations and the images: give {missing} too")
    if not Path(folder).is_dir():
        raise ValueError(f"there is no folder of images {folder}")
    images = read_annotations(annotations).images
    known = {image["id"] for image in images}
    strangers = [e.image_id for a in analyses for e in a.examples if e.image_id not in known]
    if strangers:
        raise ValueError(
            f"{annotations} is not what was evaluated: it has no image with id {strangers[0]!r}"
        )
    return {"images": images, "image_root": folder}


def draw(args: argparse.Namespace) -> list[str]:
    """Write what is asked for, and return the paths of the files."""
    if args.other is None:
        return draw_one(args)
    if args.annotations or args.images or args.dataset:
        raise ValueError("the page that compares two runs has no pictures: give images with one")
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
    figures = []
    if args.figures:
        figures = [path for c in compared for path in write_figures(args.figures, c)]
    write_comparison_report(args.output, compared, subtitle=f"{args.run} and {args.other}")
    return [str(args.output), *figures]


def draw_one(args: argparse.Namespace) -> list[str]:
    """The same for a run that is compared with none."""
    analyses = list(read_run(args.run).values())
    (name,) = run_names(args.names, [args.run])
    pictures = images_of(args, analyses)
    figures = []
    if args.figures:
        figures = [path for a in analyses for path in write_figures(args.figures, a)]
    title = f"Long-tail report: {name}"
    write_evaluation_report(args.output, analyses, title=title, subtitle=str(args.run), **pictures)
    return [str(args.output), *figures]


def main() -> None:
    """Draw, and say what was written; a wrong file is one line."""
    args = argument_parser().parse_args()
    try:
        for path in draw(args):
            print(path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
