r"""Run a trained model on images, folders and videos.

By default the config is the one that training saved beside the checkpoint. Nothing that checkpoint
and YAML config say is run without --trust. The class names come from the checkpoint. The output
folder receives the images and videos with the detections drawn on them, results.json in the format
of COCO and LVIS, and images.json with the file (and frame) of each image id and, in its info, the
thresholds. The exit status is 0, 1 if some files were skipped, 2 if nothing was done.

Detections below --threshold are neither drawn nor written. It is a score, or best-f1, precision=P
or recall=R for a threshold of each class, from the file MODEL.thresholds.json that an evaluation
writes beside the checkpoint. Set it to 0 if `d2-seesaw evaluate` or `d2-seesaw report compare` is
to score the results: they refuse a threshold above 0.05.

Examples:
  d2-seesaw predict --checkpoint output/quickstart/seesaw/model_final.pth images/ --output out
  d2-seesaw predict --checkpoint model.pth --config-file my_config.py a.jpg film.mp4 --output out
  d2-seesaw predict --checkpoint model.pth images/ --output out --threshold best-f1
  d2-seesaw predict --checkpoint model.pth images/ --images-of val.json --output out \
      --threshold 0 --json-only
"""

import argparse
import logging
import sys

from detectron2.utils.logger import setup_logger

from d2_seesaw.cli import add_trust, command_parser, count
from d2_seesaw.data.image_files import MAX_PIXELS
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.evaluation.analysis.operating_points import ThresholdRule
from d2_seesaw.inference import FilePredictions, find_sources, load_predictor
from d2_seesaw.inference.output_folder import check_output

logger = logging.getLogger("d2_seesaw")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("predict", __doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, video, or folder that contains them")
    add("--checkpoint", required=True, metavar="FILE", help="checkpoint from `d2-seesaw train`")
    add(
        "--images-of",
        metavar="FILE",
        help="annotations: of the folder INPUT, only the images that they list",
    )
    add("--output", required=True, metavar="DIR", help="folder for the results")
    add("--overwrite", action="store_true", help="replace files that this command has not written")
    add("--config-file", metavar="FILE", help="default: config.yaml beside the checkpoint")
    add(
        "--threshold",
        type=_threshold,
        default="0.5",
        metavar="SCORE|best-f1|precision=P|recall=R",
        help="lowest score to draw and write, for all classes or of each class; default: 0.5",
    )
    add("--max-detections", type=count, metavar="N", help="keep the N best detections per image")
    add("--tta", action="store_true", help="test-time augmentation with the config's tta")
    add("--no-calibration", action="store_true", help="leave out the checkpoint's calibration")
    add_trust(parser)
    add("--device", default="auto", help="default: the GPU if there is one, else the CPU")
    add("--json-only", action="store_true", help="do not write pictures or videos")
    add(
        "--max-pixels",
        type=count,
        default=MAX_PIXELS,
        metavar="N",
        help=f"skip larger images; default: {MAX_PIXELS}",
    )
    add(
        "--min-side",
        type=int,
        default=0,
        metavar="PIXELS",
        help="enlarge drawings of smaller images",
    )
    return parser


def _threshold(text: str) -> str:
    try:
        return str(ThresholdRule.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the model on all inputs and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    setup_logger(name="d2_seesaw")
    try:
        sources = find_sources(args.inputs, args.output, images_of=args.images_of)
        draw = not args.json_only
        if not args.overwrite:  # before the model is loaded, which tells whether it has label maps
            check_output(args.output, sources, draw=draw, label_maps=False)
        config_file = args.config_file and find_config(args.config_file)
        predictor = load_predictor(
            args.checkpoint,
            config_file=config_file,
            device=args.device,
            tta=args.tta,
            trust=args.trust,
            calibrated=not args.no_calibration,
            threshold=args.threshold,
        )
        predictions = FilePredictions(
            predictor,
            args.output,
            max_detections=args.max_detections,
            draw=draw,
            min_side=args.min_side,
            max_pixels=args.max_pixels,
            overwrite=args.overwrite,
        )
        predictions.check(sources)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        unreadable = predictions.run(sources)
    except OSError as error:
        sys.exit(f"d2-seesaw predict: {error}")
    logger.info("Files with results: %d, in %s", len(sources) - len(unreadable), args.output)
    if not predictor.is_semantic and len(unreadable) < len(sources):
        logger.info(predictions.advice())
    if unreadable:
        logger.error("Skipped: %d\n%s", len(unreadable), "\n".join(unreadable))
    return int(bool(unreadable))
