"""Score saved detections by LVIS's rules, without the model that found them.

    python tools/evaluate.py output/run/inference/lvis_instances_results.json --dataset lvis_v1_val
    python tools/evaluate.py results.json --annotations val.json --train-annotations train.json
    python tools/evaluate.py results.json --config-file my_config.py --dataset my_val
    python tools/evaluate.py results.json --predicted-images images.json --annotations val.json

Reads a JSON file in the COCO results format, or the faster instances_predictions.npz beside it.
Annotations may be in the format of LVIS or of COCO, whose images are labelled exhaustively.
The last form is for results of `python -m d2_seesaw.predict`, whose image ids are its own.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import detectron2.data.datasets  # noqa: F401  registers the built-in datasets
from detectron2.data import MetadataCatalog

from d2_seesaw.engine import load_config
from d2_seesaw.evaluation import (
    DetectionLimits,
    LVISScoring,
    evaluate_results_file,
    print_longtail_results,
)
from d2_seesaw.evaluation.lvis.annotations import annotation_file, registered_train_images
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.scoring import ENGINES
from d2_seesaw.report import write_evaluation_report

PREDICTED_HELP = (
    "images.json beside results of d2_seesaw.predict: go by file names, not by image ids"
)
OUTPUT_HELP = "write the scores of every category and the long-tail report here"


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("results", help="detections: .json, or .npz of an evaluation")
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--dataset", metavar="NAME", help="name of a registered dataset")
    truth.add_argument("--annotations", metavar="FILE", help="annotation file")
    add("--config-file", metavar="FILE", help="a config that registers the dataset")
    add("--train-annotations", metavar="FILE", help="count training images here, for r, c and f")
    add("--predicted-images", metavar="FILE", help=PREDICTED_HELP)
    add("--task", nargs="+", choices=TASKS, help="default: what the detections allow")
    add("--engine", choices=ENGINES, default="sparse", help="lvis: the official package, slow")
    add("--max-dets-per-image", type=int, default=300, metavar="N", help="default: 300, as LVIS")
    add("--fixed-ap", action="store_true", help="10,000 detections a category, no limit per image")
    add("--class-agnostic", action="store_true", help="any category may find an object")
    add("--output", metavar="DIR", help=OUTPUT_HELP)
    add("--images", metavar="DIR", help="folder of the images; default: that of --dataset")
    return parser


def registered_images(dataset: str | None) -> str | None:
    """Folder of the images of a registered dataset, if it is known."""
    return MetadataCatalog.get(dataset).get("image_root") if dataset else None


def hints(args: argparse.Namespace, results: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """What may be other than meant."""
    beside = Path(args.results).with_name("images.json")
    if not args.predicted_images and beside.is_file():
        yield (
            f"Image ids are taken to be those of the annotations. If {beside} says what they are, "
            "give it as --predicted-images."
        )
    counts = [m.get("categories-" + group) for m in results.values() for group in "rcf"]
    if not args.class_agnostic and not any(counts):
        yield (
            "No APr, APc and APf: nothing says how many training images the categories have. Give "
            "--train-annotations."
        )


def main() -> None:
    """Score, and print the table; a wrong file is one line."""
    args = argument_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    limits = DetectionLimits(per_image=args.max_dets_per_image)
    if args.fixed_ap:
        limits = DetectionLimits.of_fixed_ap()
    try:
        if args.config_file:
            load_config(args.config_file)  # registers datasets on the way
        results = evaluate_results_file(
            args.results,
            annotation_file(args.dataset) if args.dataset else args.annotations,
            tasks=args.task,
            scoring=LVISScoring(args.engine, limits, args.class_agnostic),
            train_image_counts=args.train_annotations,
            registered_counts=registered_train_images(args.dataset) if args.dataset else None,
            predicted_images=args.predicted_images,
            output_dir=args.output,
            report=write_evaluation_report,
            image_root=args.images or registered_images(args.dataset),
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print_longtail_results(results)
    for hint in hints(args, results):
        print(hint)


if __name__ == "__main__":
    main()
