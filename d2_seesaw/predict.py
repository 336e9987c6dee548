r"""Run a trained model on pictures, folders and videos.

    python -m d2_seesaw.predict --checkpoint output/quickstart/seesaw/model_final.pth images/ \
        --output out

The config is the one that training has saved beside the checkpoint, and the names of the classes
are those in the checkpoint. The output folder gets the pictures and videos with what was found
drawn on them, results.json in the format of COCO and LVIS, and images.json, which says the file
of each image id, and of videos the frame. Detections below --score-threshold are neither drawn nor
written: with --score-threshold 0 they can be scored against annotations of the same pictures,

    python tools/evaluate.py results.json --predicted-images images.json --annotations val.json

Exit code: 0, 1 if some files could not be read, 2 if nothing was done.
"""

import argparse
import logging
import sys

from detectron2.utils.logger import setup_logger

from d2_seesaw.inference import FilePredictions, find_sources, load_predictor

logger = logging.getLogger("d2_seesaw.predict")


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m d2_seesaw.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="picture, video, or folder of them"
    )
    parser.add_argument("--checkpoint", required=True, help="weights of train_net.py")
    parser.add_argument("--output", required=True, help="folder of the results")
    parser.add_argument("--config-file", help="by default config.yaml beside the checkpoint")
    parser.add_argument(
        "--score-threshold",
        type=_score,
        default=0.5,
        metavar="SCORE",
        help="lowest score that is drawn and written, in [0, 1]; default: 0.5",
    )
    parser.add_argument(
        "--max-detections", type=_count, metavar="N", help="of an image, the best ones"
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation of the config")
    parser.add_argument(
        "--device", default="auto", help="default: the GPU if there is one, else the CPU"
    )
    parser.add_argument("--json-only", action="store_true", help="draw nothing")
    parser.add_argument(
        "--min-side", type=int, default=0, metavar="PIXELS", help="draw smaller ones enlarged"
    )
    return parser


def _score(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Predict; returns the exit code."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    setup_logger(name="d2_seesaw")
    try:
        sources = find_sources(args.inputs, args.output)
        predictor = load_predictor(
            args.checkpoint, config_file=args.config_file, device=args.device, tta=args.tta
        )
        predictions = FilePredictions(
            predictor,
            args.output,
            score_threshold=args.score_threshold,
            max_detections=args.max_detections,
            draw=not args.json_only,
            min_side=args.min_side,
        )
        predictions.check(sources)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    unreadable = predictions.run(sources)
    logger.info("Files with results: %d, in %s", len(sources) - len(unreadable), args.output)
    if unreadable:
        logger.error("Not readable: %d\n%s", len(unreadable), "\n".join(unreadable))
    return int(bool(unreadable))


if __name__ == "__main__":
    sys.exit(main())
