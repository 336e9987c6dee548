"""Import annotations of other formats into a COCO file.

"yolo" reads labels with boxes or polygons, "labelme" and "voc" one JSON or XML file per image,
"coco" the COCO exports of CVAT, Roboflow and Label Studio. The images stay where they are. What is
left out or changed is listed with its number and first place.

Examples:
  d2-seesaw import yolo data.yaml --split train --output train.json
  d2-seesaw import yolo labels/train --images images/train --classes classes.txt --output train.json
  d2-seesaw import labelme photos --output train.json --classes names.txt
  d2-seesaw import voc VOCdevkit/VOC2012 --split Segmentation/train --output train.json
  d2-seesaw import coco export/annotations/instances_default.json --images export/images \
      --output train.json
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from d2_seesaw.cli import command_parser, errors_in_one_line, say
from d2_seesaw.data.importers import (
    ImportedDataset,
    ImportOptions,
    import_coco,
    import_labelme,
    import_voc,
    import_yolo,
)

FORMATS = {
    "yolo": (import_yolo, "YOLO labels: boxes, or polygons", "data.yaml, or a folder of labels"),
    "labelme": (import_labelme, "JSON files of Labelme", "a folder of JSON files, or one file"),
    "voc": (import_voc, "Pascal VOC", "a folder with Annotations, or a folder of XML files"),
    "coco": (
        import_coco,
        "COCO exports of CVAT, Roboflow and Label Studio",
        "the JSON file, or the folder of the export",
    ),
}


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("import", __doc__)
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    shared: Any = {"epilog": parser.epilog, "formatter_class": parser.formatter_class}
    for name, (_, summary, source) in FORMATS.items():
        add = formats.add_parser(name, help=summary, description=summary, **shared).add_argument
        add("source", type=Path, help=source)
        add("--output", type=Path, required=True, metavar="FILE", help="COCO file to write")
        add("--images", type=Path, metavar="FOLDER", help="folder that file names are relative to")
        add("--overwrite", action="store_true", help="replace the output if it exists")
        add(
            "--enclose-rotated",
            action="store_true",
            help="take the upright box around rotated ones",
        )
        add("--boxes-only", action="store_true", help="leave out all masks")
        add("--boxes-as-masks", action="store_true", help="fill boxes among objects with masks")
        if name != "coco":
            add(
                "--classes", type=Path, metavar="FILE", help="class names, one a line, or data.yaml"
            )
        if name == "yolo":
            add("--split", default="train", help="train, val or test of the YAML file")
            add("--polygons", action="store_true", help="lines of four points are never boxes")
        if name == "voc":
            add("--split", help="a list in ImageSets, such as train or Segmentation/train")
            add("--zero-based", action="store_true", help="boxes count from 0, as CVAT writes them")
        if name == "coco":
            crowds = "default: keep crowds, but take those of CVAT as objects"
            add("--crowds", choices=["keep", "objects"], help=crowds)
    return parser


def import_dataset(args: argparse.Namespace) -> ImportedDataset:
    """Import the dataset that the arguments name."""
    options = ImportOptions(
        enclose_rotated=args.enclose_rotated,
        boxes_only=args.boxes_only,
        boxes_as_masks=args.boxes_as_masks,
    )
    known = ("images", "classes", "split", "polygons", "zero_based", "crowds")
    given = {key: value for key, value in vars(args).items() if key in known}
    return FORMATS[args.format][0](args.source, options=options, **given)


def main(arguments: list[str] | None = None) -> None:
    """Import the dataset, write it, and say what was left out and how to check it."""
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line(f"import {args.format}"):
        if args.output.exists() and not args.overwrite:
            raise FileExistsError(f"{args.output} exists; --overwrite replaces it")
        dataset = import_dataset(args)
        dataset.write(args.output)
    say(f"{args.output}: {dataset.summary()}")
    check = shlex.join(["d2-seesaw", "check", str(args.output), str(dataset.image_root)])
    say(f"check it: {check}")
