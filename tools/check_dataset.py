"""Say what is wrong with a data set in COCO or LVIS format, before a training finds out.

    python tools/check_dataset.py annotations/train.json images
    python tools/check_dataset.py annotations/val.json images --counts-from annotations/train.json
    python tools/check_dataset.py annotations/train.json images --report r.html --json r.json
    python tools/check_dataset.py --config-file my_config.py --name my_train

Ends with 1 if there are errors. --report draws the long tail, object sizes, repeat factors and
pictures of each frequency group into one HTML file; --json holds everything that was found.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from d2_seesaw.data import check_dataset, check_dataset_files
from d2_seesaw.data.annotations.reader import columns_of, file_image_counts, parse_json
from d2_seesaw.data.catalog import check_same_names
from d2_seesaw.data.check import DatasetCheck
from d2_seesaw.data.check.overview import DatasetOverview, dataset_overview
from d2_seesaw.engine import load_config
from d2_seesaw.report import write_dataset_report
from d2_seesaw.utils.files import write_text


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("json_file", nargs="?", type=Path, help="annotations in COCO or LVIS format")
    add("image_root", nargs="?", type=Path, help="folder of the images")
    add("--config-file", help="a config that registers the data set --name")
    add("--name", help="a registered data set, instead of files")
    add("--counts-from", type=Path, help="annotations of the training split, for the groups")
    add("--no-images", action="store_true", help="do not read the images, only look for them")
    add("--workers", type=int, help="threads that read images; one per processor, at most 8")
    add("--limit", type=int, default=10, help="issues of each kind that are printed")
    add("--threshold", type=float, default=1e-3, help="of repeat factor sampling, for the report")
    add("--report", type=Path, help="HTML file to write")
    add("--json", type=Path, help="JSON file to write, with every issue")
    return parser


def files_of(args: argparse.Namespace) -> tuple[Path, Path]:
    """Annotations and images, given as files or by a registered name.

    Raises:
        ValueError: neither is given, or both.
    """
    if args.config_file:
        load_config(args.config_file)  # registers data sets on the way
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
    """Training images by category id, if something says them.

    Raises:
        ValueError: counts of other categories.
    """
    if args.counts_from:
        counts = file_image_counts(args.counts_from)
        check_same_names(categories, counts, json_file, args.counts_from)
    elif args.name:
        counts = MetadataCatalog.get(args.name).get("class_image_count") or []
    else:
        return None
    return {count["id"]: count["image_count"] for count in counts}


def write_report(args: argparse.Namespace, check: DatasetCheck) -> DatasetOverview | None:
    """Write the HTML page; what the annotations say is left out where they cannot be read."""
    overview = columns = None
    try:
        columns, _ = columns_of(check.json_file, parse_json(check.json_file))
        counts = train_images(args, check.json_file, columns.categories)
        overview = dataset_overview(columns, train_images=counts, threshold=args.threshold)
    except ValueError as error:
        print(f"no overview: {error}")
    if args.report:
        title = f"Dataset {args.name or Path(check.json_file).name}"
        drawn = None if args.no_images else columns
        write_dataset_report(args.report, check, overview, drawn, title=title)
    return overview


def main() -> None:
    """Check, print, write."""
    args = argument_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, if no terminal
    try:
        json_file, image_root = files_of(args)
        if args.counts_from:
            file_image_counts(args.counts_from)  # before the images are read; it is kept
        check = check_dataset(
            json_file, image_root, read_images=not args.no_images, workers=args.workers
        )
    except (ValueError, OSError) as error:
        sys.exit(f"check_dataset.py: {error}")
    print(check.text(args.limit))
    if args.report or args.json:
        overview = write_report(args, check)
        if args.json:
            content = check.to_json()
            content["overview"] = overview.to_json() if overview else None
            write_text(args.json, json.dumps(content, indent=1))
    sys.exit(1 if check.number_of_errors else 0)


if __name__ == "__main__":
    main()
