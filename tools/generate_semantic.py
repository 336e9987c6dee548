"""Generate long-tailed street scenes for semantic segmentation.

    python tools/generate_semantic.py
    python tools/generate_semantic.py --root datasets/streets --train-images 2000 --seed 1

The default is the data registered as semantic_quickstart_train and _val, in the folder
semantic_quickstart of $DETECTRON2_DATASETS (or ./datasets).
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from d2_seesaw.data import datasets_root
from d2_seesaw.synthetic.street import (
    GeneratedSemanticDataset,
    SemanticSpec,
    generate_semantic_dataset,
)


def argument_parser() -> argparse.ArgumentParser:
    """Command line whose defaults are those of the library."""
    spec = SemanticSpec()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, default=datasets_root() / "semantic_quickstart")
    add("--train-images", type=int, default=spec.num_train_images)
    add("--val-images", type=int, default=spec.num_val_images)
    add("--image-size", type=int, nargs=2, metavar=("H", "W"), default=spec.image_size)
    add("--seed", type=int, default=spec.seed)
    add("--overwrite", action="store_true", help="replace generated data of other parameters")
    return parser


def spec_from(args: argparse.Namespace) -> SemanticSpec:
    """The specification that the arguments ask for."""
    return SemanticSpec(
        num_train_images=args.train_images,
        num_val_images=args.val_images,
        image_size=tuple(args.image_size),
        seed=args.seed,
    )


def summary(dataset: GeneratedSemanticDataset, seconds: float) -> str:
    """Where everything lies, and what is in it."""
    how = "found complete, nothing to do" if dataset.reused else f"generated in {seconds:.1f} s"
    return (
        f"{dataset.root}: {how}\n"
        f"  training    {dataset.num_images['train']} images\n"
        f"  validation  {dataset.num_images['val']} images\n"
        f"  classes     {len(dataset.classes)}: {', '.join(dataset.classes)}"
    )


def main() -> None:
    """Generate, or say in one line why not."""
    args = argument_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, if no terminal
    start = time.monotonic()
    try:
        dataset = generate_semantic_dataset(args.root, spec_from(args), overwrite=args.overwrite)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(summary(dataset, time.monotonic() - start))


if __name__ == "__main__":
    main()
