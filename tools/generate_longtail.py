r"""Generate long-tailed instance segmentation data in LVIS v1 format.

    python tools/generate_longtail.py
    python tools/generate_longtail.py --root datasets/large --categories 1203 \
        --train-images 10000 --val-images 1000 --objects 3 8 --profile lvis_v1 --annotations-only

The default is the demo's data, in the folder quickstart of $DETECTRON2_DATASETS (or ./datasets).
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from d2_seesaw.data import datasets_root
from d2_seesaw.synthetic.instances import GeneratedDataset, LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import DEMO_PROFILE, LVIS_V1_PROFILE

PROFILES = {"demo": DEMO_PROFILE, "lvis_v1": LVIS_V1_PROFILE}


def argument_parser() -> argparse.ArgumentParser:
    """Command line whose defaults are those of the library."""
    spec = LongTailSpec()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, default=datasets_root() / "quickstart")
    add("--categories", type=int, default=spec.num_categories)
    add("--train-images", type=int, default=spec.num_train_images)
    add("--val-images", type=int, default=spec.num_val_images)
    add("--image-size", type=int, nargs=2, metavar=("H", "W"), default=spec.image_size)
    add("--objects", type=int, nargs=2, metavar=("LOW", "HIGH"), default=spec.objects_per_image)
    add("--profile", choices=PROFILES, default="demo", help="image counts of the categories")
    add("--seed", type=int, default=spec.seed)
    add("--annotations-only", action="store_true", help="write no pictures")
    add("--processes", type=int, help="default: one per core")
    add("--overwrite", action="store_true", help="replace generated data of other parameters")
    return parser


def spec_from(args: argparse.Namespace) -> LongTailSpec:
    """The specification that the arguments ask for."""
    return LongTailSpec(
        num_categories=args.categories,
        num_train_images=args.train_images,
        num_val_images=args.val_images,
        image_size=tuple(args.image_size),
        objects_per_image=tuple(args.objects),
        profile=PROFILES[args.profile],
        seed=args.seed,
        write_images=not args.annotations_only,
    )


def summary(dataset: GeneratedDataset, seconds: float) -> str:
    """Where everything lies, and how long the tail is."""
    groups = dataset.group_sizes
    how = "found complete, nothing to do" if dataset.reused else f"generated in {seconds:.1f} s"
    return (
        f"{dataset.root}: {how}\n"
        f"  training    {dataset.train_json}\n"
        f"  validation  {dataset.val_json}\n"
        f"  categories  {len(dataset.category_names)}: {groups['r']} rare, {groups['c']} common, "
        f"{groups['f']} frequent (in {min(dataset.train_image_counts)} to "
        f"{max(dataset.train_image_counts)} training images)"
    )


def main() -> None:
    """Generate, or say in one line why not."""
    args = argument_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, if no terminal
    start = time.monotonic()
    try:
        dataset = generate_longtail_dataset(
            args.root, spec_from(args), processes=args.processes, overwrite=args.overwrite
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(summary(dataset, time.monotonic() - start))


if __name__ == "__main__":
    main()
