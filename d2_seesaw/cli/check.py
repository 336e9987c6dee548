"""Check a dataset in COCO or LVIS format before training.

The exit status is 1 if there are errors. --report writes an HTML page with the long tail, object
sizes, repeat factors and images of each frequency group. --json writes every issue found.
--fix writes a mended copy, which is checked then, and lists every change.

Examples:
  d2-seesaw check annotations/train.json images
  d2-seesaw check annotations/val.json images --counts-from annotations/train.json
  d2-seesaw check annotations/train.json images --report train.html --json train_check.json
  d2-seesaw check annotations/val.json images --duplicates annotations/train.json
  d2-seesaw check annotations/train.json images --fix annotations/train_mended.json
  d2-seesaw check --list-rules
  d2-seesaw check --config-file my_config.py --name my_train
"""

import argparse
import json
import logging
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from d2_seesaw.cli import add_image_options, command_parser, errors_in_one_line, finite, say
from d2_seesaw.data import check_dataset, check_dataset_files
from d2_seesaw.data.annotations.coco import parse_file
from d2_seesaw.data.annotations.reader import file_image_counts
from d2_seesaw.data.annotations.rules import RULES
from d2_seesaw.data.check import DatasetCheck
from d2_seesaw.data.check.overview import DatasetOverview, dataset_overview
from d2_seesaw.data.check.repair import Repair, repair_file
from d2_seesaw.data.class_names import counts_by_category
from d2_seesaw.data.image_files import MAX_PIXELS
from d2_seesaw.data.saved_datasets import register_saved_datasets
from d2_seesaw.engine import load_config
from d2_seesaw.report import write_dataset_report
from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.marks import claim_outputs


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("check", __doc__)
    add = parser.add_argument
    add("json_file", nargs="?", type=Path, help="annotations in COCO or LVIS format")
    add("image_root", nargs="?", type=Path, help="folder of the images")
    add("--config-file", metavar="FILE", help="a config that registers the dataset --name")
    add("--name", help="a registered dataset, instead of files")
    add("--counts-from", type=Path, metavar="FILE", help="training annotations, for the groups")
    add(
        "--duplicates",
        type=Path,
        nargs="+",
        metavar="OTHER",
        help="annotations of another split and, unless it is the same, its folder of images: "
        "name images that are in both, or twice in this one",
    )
    add("--fix", type=Path, metavar="FILE", help="mended copy of the annotations to write")
    add("--list-rules", action="store_true", help="print all rules, with their fixes, and exit")
    add("--no-images", action="store_true", help="look for the images without reading them")
    add("--workers", type=int, metavar="N", help="threads that read images; default: up to 8")
    add("--limit", type=int, default=10, metavar="N", help="issues printed per kind; default: 10")
    add("--threshold", type=finite, default=1e-3, help="of repeat factor sampling; default: 0.001")
    add("--report", type=Path, metavar="FILE", help="HTML file to write")
    add("--json", type=Path, metavar="FILE", help="JSON file to write")
    add("--overwrite", action="store_true", help="replace files that this command has not written")
    add_image_options(parser, MAX_PIXELS)
    return parser


def files_of(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the annotation file and the image folder, given as files or by a registered name.

    Raises:
        ValueError: neither or both are given.
    """
    if args.config_file:
        load_config(args.config_file, parts=())  # registers datasets
        register_saved_datasets(args.config_file)
    if args.name:
        if args.json_file:
            raise ValueError("give files or --name, not both")
        check_dataset_files(args.name)
        metadata = MetadataCatalog.get(args.name)
        return Path(metadata.json_file), Path(metadata.image_root)
    if not args.image_root:
        raise ValueError("give annotations and the folder of images, or --name")
    return args.json_file, args.image_root


def train_images(
    args: argparse.Namespace, json_file: str, categories: Sequence[Mapping[str, Any]]
) -> dict[Any, int] | None:
    """Return the number of training images by category id, or None if it is unknown.

    Raises:
        ValueError: the counts are of other categories.
    """
    if args.counts_from:
        counts = file_image_counts(args.counts_from)
        return counts_by_category(categories, counts, json_file, args.counts_from)
    if args.name:
        counts = MetadataCatalog.get(args.name).get("class_image_count") or []
        return {count["id"]: count["image_count"] for count in counts}
    return None


def rules_text(width: int) -> str:
    """Return all rules as a table of at most ``width`` columns, from 60 on."""
    lines = []
    for name, rule in RULES.items():
        lines.append(f"{name:<30}{rule.severity:<13}{rule.applies_to}")
        for label, text in (("", rule.description), ("fix: ", rule.fix)):
            lines += textwrap.wrap(
                text,
                max(width, 60),
                initial_indent=f"    {label}",
                subsequent_indent=" " * 9,
            )
    return "\n".join(lines)


def other_split(args: argparse.Namespace, image_root: Path) -> tuple[Path, Path] | None:
    """Return annotations and image folder of --duplicates, None without it.

    Raises:
        ValueError: more than two paths.
    """
    if args.duplicates is None:
        return None
    if len(args.duplicates) > 2:
        raise ValueError("--duplicates takes annotations and the folder of their images")
    return args.duplicates[0], args.duplicates[-1] if args.duplicates[1:] else image_root


def write_report(args: argparse.Namespace, check: DatasetCheck) -> DatasetOverview | None:
    """Write the HTML page and return the overview, which is None for unreadable annotations."""
    overview = columns = None
    try:
        columns = parse_file(check.json_file).table
        counts = train_images(args, check.json_file, columns.categories)
        overview = dataset_overview(columns, train_images=counts, threshold=args.threshold)
    except ValueError as error:
        say(f"no overview: {error}")
    if args.report:
        title = f"Dataset {args.name or Path(check.json_file).name}"
        drawn = None if args.no_images else columns
        write_dataset_report(
            args.report,
            check,
            overview,
            drawn,
            title=title,
            follow_links=args.follow_links,
            max_pixels=args.max_pixels,
        )
    return overview


def main(arguments: list[str] | None = None) -> int:
    """Check the dataset, print the issues and write the files; return the exit status."""
    args = argument_parser().parse_args(arguments)
    if args.list_rules:
        say(rules_text(min(100, shutil.get_terminal_size((100, 24)).columns)))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress without a terminal
    with errors_in_one_line("check"):
        json_file, image_root = files_of(args)
        duplicates = other_split(args, image_root)
        if args.fix and args.fix.resolve() == json_file.resolve():
            raise ValueError(f"the mended copy must be another file than {json_file}")
        outputs = [path for path in (args.fix, args.report, args.json) if path is not None]
        claim_outputs(outputs, overwrite=args.overwrite)
        if args.counts_from:
            file_image_counts(args.counts_from)  # fails before the images are read; it is cached
        repair = None
        if args.fix:
            repair = repair_file(json_file, args.fix)
            json_file = args.fix
            say(repair.text(args.limit))
        check = check_dataset(
            json_file,
            image_root,
            read_images=not args.no_images,
            duplicates=duplicates,
            workers=args.workers,
        )
    say(check.text(args.limit))
    same_names = has_same_names(args, check)
    if args.report or args.json:
        write_files(args, check, repair)
    return int(check.number_of_errors > 0 or not same_names)


def has_same_names(args: argparse.Namespace, check: DatasetCheck) -> bool:
    """Compare the categories with those of --counts-from, and say what differs."""
    try:
        if args.counts_from and check.categories:
            train_images(args, check.json_file, check.categories)
    except ValueError as error:
        say(f"  error: {error}")
        return False
    return True


def write_files(args: argparse.Namespace, check: DatasetCheck, repair: Repair | None) -> None:
    """Write the HTML page and the JSON file that are asked for."""
    overview = write_report(args, check)
    if args.json:
        content = check.to_json()
        content["overview"] = overview.to_json() if overview else None
        content["repair"] = repair.to_json() if repair else None
        write_text(args.json, json.dumps(content, indent=1))
