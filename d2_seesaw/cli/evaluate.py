"""Score saved detections with the LVIS metrics. No model is run.

Reads a JSON file in the COCO results format, or the instances_predictions.npz that an evaluation
writes beside it, which is faster to read. Annotations are in LVIS or COCO format; images in COCO
format count as exhaustively annotated. Results of `d2-seesaw predict` have image ids of their own:
images are matched by file name, with the images.json beside them or the one of --predicted-images.
They need `d2-seesaw predict --threshold 0`.

Examples:
  d2-seesaw evaluate output/run/inference/lvis_instances_results.json --dataset lvis_v1_val
  d2-seesaw evaluate results.json --annotations val.json --train-annotations train.json
  d2-seesaw evaluate results.json --config-file my_config.py --dataset my_val
  d2-seesaw evaluate out/results.json --annotations val.json
  d2-seesaw evaluate results.json --annotations val.json --thresholds-of model.pth
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from functools import partial

import detectron2.data.datasets  # noqa: F401  registers the built-in datasets
from detectron2.data import MetadataCatalog

from d2_seesaw.cli import (
    add_image_options,
    add_trust,
    command_parser,
    errors_in_one_line,
    say,
)
from d2_seesaw.data.image_files import MAX_PIXELS
from d2_seesaw.data.saved_datasets import register_saved_datasets
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

PREDICTED_HELP = "images.json of `d2-seesaw predict`; default: the one beside its results"
THRESHOLDS_HELP = (
    "the checkpoint that made the detections: write its score thresholds beside it, for "
    "`d2-seesaw predict --threshold best-f1`"
)
OUTPUT_HELP = "write the scores of every category and the long-tail report to this folder"


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("evaluate", __doc__)
    add = parser.add_argument
    add("results", help="detections: .json, or .npz from an evaluation")
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--dataset", metavar="NAME", help="name of a registered dataset")
    truth.add_argument("--annotations", metavar="FILE", help="annotation file")
    add("--config-file", metavar="FILE", help="a config that registers the dataset")
    add_trust(parser)
    add("--train-annotations", metavar="FILE", help="training annotations, for APr, APc and APf")
    add("--predicted-images", metavar="FILE", help=PREDICTED_HELP)
    add("--task", nargs="+", choices=TASKS, help="default: all that the detections support")
    add("--engine", choices=ENGINES, default="sparse", help="lvis: the official package, slower")
    add("--max-dets-per-image", type=int, default=300, metavar="N", help="default: 300, as in LVIS")
    add("--fixed-ap", action="store_true", help="10,000 detections per category, not per image")
    add("--class-agnostic", action="store_true", help="ignore categories when matching")
    add("--any-scores", action="store_true", help="allow scores outside of [0, 1], such as logits")
    add("--output", metavar="DIR", help=OUTPUT_HELP)
    add("--images", metavar="DIR", help="folder of the images; default: that of --dataset")
    add("--thresholds-of", metavar="CHECKPOINT", help=THRESHOLDS_HELP)
    add("--tta", action="store_true", help="with --thresholds-of: it was used for the detections")
    add_image_options(parser, MAX_PIXELS)
    return parser


def registered_images(dataset: str | None) -> str | None:
    """Return the image folder of a registered dataset, if it is known."""
    return MetadataCatalog.get(dataset).get("image_root") if dataset else None


def hints(args: argparse.Namespace, results: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield warnings about likely mistakes in the command."""
    counts = [m.get("categories-" + group) for m in results.values() for group in "rcf"]
    if not args.class_agnostic and not any(counts):
        yield (
            "No APr, APc and APf: the numbers of training images per category are unknown. Give "
            "--train-annotations."
        )


def main(arguments: list[str] | None = None) -> None:
    """Score the detections and print the table."""
    args = argument_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    limits = DetectionLimits(per_image=args.max_dets_per_image)
    if args.fixed_ap:
        limits = DetectionLimits.of_fixed_ap()
    with errors_in_one_line("evaluate"):
        if args.config_file:
            load_config(args.config_file, trust=args.trust, parts=())  # registers datasets
            register_saved_datasets(args.config_file)
        results = evaluate_results_file(
            args.results,
            annotation_file(args.dataset) if args.dataset else args.annotations,
            tasks=args.task,
            scoring=LVISScoring(args.engine, limits, args.class_agnostic, args.any_scores),
            train_image_counts=args.train_annotations,
            registered_counts=registered_train_images(args.dataset) if args.dataset else None,
            predicted_images=args.predicted_images,
            output_dir=args.output,
            report=partial(
                write_evaluation_report,
                follow_links=args.follow_links,
                max_pixels=args.max_pixels,
            ),
            image_root=args.images or registered_images(args.dataset),
            thresholds_of=args.thresholds_of,
            tta=args.tta,
            dataset=args.dataset or "",
        )
    print_longtail_results(results)
    for hint in hints(args, results):
        say(hint)
