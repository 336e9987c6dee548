r"""Generate a long-tailed dataset on which everything can be tried without a download.

"instances" writes instance segmentation in LVIS v1 format, by default the data of the quickstart,
registered as quickstart_train and quickstart_val. "semantic" writes street scenes for semantic
segmentation, by default registered as semantic_quickstart_train and semantic_quickstart_val.
"classification" writes pictures and lists of them in ImageNet-LT's format, by default registered as
classification_quickstart_train and classification_quickstart_val. "cutouts" composes pictures with
transparency over backgrounds, in LVIS v1 format. All go to a folder of $DETECTRON2_DATASETS (or
./datasets). Data that exist are not generated again.

Examples:
  d2-seesaw generate instances
  d2-seesaw generate instances --root datasets/large --categories 1203 --train-images 10000 \
      --val-images 1000 --objects 3 8 --profile lvis_v1 --annotations-only
  d2-seesaw generate semantic
  d2-seesaw generate semantic --root datasets/streets --train-images 2000 --seed 1
  d2-seesaw generate classification
  d2-seesaw generate classification --root datasets/many --classes 100 --most 500 --fewest 5
  d2-seesaw generate cutouts --cutouts stamps --backgrounds photographs
  d2-seesaw generate cutouts --cutouts stamps --exclude "*/cartoon/*" --root datasets/scenes \
      --scenes 6 --scene-strength 0.9
"""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

from d2_seesaw.cli import command_parser, errors_in_one_line, say, seed
from d2_seesaw.data import datasets_root
from d2_seesaw.synthetic.cutouts import (
    CutoutSources,
    CutoutSpec,
    CutoutStyle,
    GeneratedCutouts,
    generate_cutout_dataset,
)
from d2_seesaw.synthetic.cutouts.spec import CUTOUT_PROFILES, FREQUENCIES
from d2_seesaw.synthetic.instances import GeneratedDataset, LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.pictures import (
    ClassificationSpec,
    GeneratedClassificationDataset,
    generate_classification_dataset,
)
from d2_seesaw.synthetic.profile import PROFILES, ListedProfile, LongTailProfile
from d2_seesaw.synthetic.street import (
    GeneratedSemanticDataset,
    SemanticSpec,
    generate_semantic_dataset,
)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser, with the defaults of the library."""
    parser = command_parser("generate", __doc__)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    spec = LongTailSpec()
    shared: Any = {"epilog": parser.epilog, "formatter_class": parser.formatter_class}
    what = "instance segmentation in LVIS v1 format"
    instances = kinds.add_parser("instances", help=what, description=what, **shared)
    _add_numbers_of_images(instances, spec)
    _add_common_arguments(instances, "quickstart", spec)
    add = instances.add_argument
    add("--categories", type=int, default=spec.num_categories, metavar="N")
    add("--objects", type=int, nargs=2, metavar=("LOW", "HIGH"), default=spec.objects_per_image)
    add("--profile", choices=PROFILES, default="demo", help="images per category")
    _add_not_exhaustive(instances, spec)
    add("--annotations-only", action="store_true", help="write no images")
    add("--processes", type=int, metavar="N", help="default: one per core")
    what = "street scenes for semantic segmentation"
    semantic = kinds.add_parser("semantic", help=what, description=what, **shared)
    _add_numbers_of_images(semantic, SemanticSpec())
    _add_common_arguments(semantic, "semantic_quickstart", SemanticSpec())
    what = "pictures for image classification in ImageNet-LT's format"
    pictures = kinds.add_parser("classification", help=what, description=what, **shared)
    of_classes = ClassificationSpec()
    add = pictures.add_argument
    add("--classes", type=int, default=of_classes.num_classes, metavar="N")
    help_of_counts = "training images of the most frequent and of the rarest class"
    add("--most", type=int, default=of_classes.most_images, metavar="N", help=help_of_counts)
    add("--fewest", type=int, default=of_classes.fewest_images, metavar="N")
    add(
        "--val-images",
        type=int,
        default=of_classes.val_images_per_class,
        metavar="N",
        help="per class",
    )
    _add_common_arguments(pictures, "classification_quickstart", of_classes)
    what = "scenes composed of cut-outs, for instance segmentation in LVIS v1 format"
    _add_cutout_arguments(kinds.add_parser("cutouts", help=what, description=what, **shared))
    return parser


def _add_cutout_arguments(parser: argparse.ArgumentParser) -> None:
    spec, style = CutoutSpec(), CutoutStyle()
    group = parser.add_argument_group("pictures")
    add = group.add_argument
    what = "folder of pictures with transparency; subfolders are categories"
    add("--cutouts", type=Path, required=True, metavar="DIR", help=what)
    what = "folder of background pictures; by default textures are generated"
    add("--backgrounds", type=Path, metavar="DIR", help=what)
    what = 'pictures to use, such as "animals/*"; "*" also matches "/". May be repeated'
    add("--include", action="append", default=[], metavar="GLOB", help=what)
    what = 'pictures to leave out, such as "*/cartoon/*". May be repeated'
    add("--exclude", action="append", default=[], metavar="GLOB", help=what)
    what = "backgrounds to leave out, such as those that show objects. May be repeated"
    add("--exclude-backgrounds", action="append", default=[], metavar="GLOB", help=what)
    what = "CSV file with the columns file and category, instead of folders as categories"
    add("--table", type=Path, metavar="FILE", help=what)
    what = "leading folders that name a category, by default all of them"
    add("--category-depth", type=int, metavar="N", help=what)
    what = "share of the cut-outs of each category that only validation shows"
    add("--held-out", type=float, default=spec.held_out, metavar="SHARE", help=what)
    _add_numbers_of_images(parser, spec)
    _add_common_arguments(parser, "cutouts", spec)
    add = parser.add_argument
    add("--objects", type=int, nargs=2, metavar=("LOW", "HIGH"), default=spec.objects_per_image)
    names = ", ".join(CUTOUT_PROFILES)
    what = f"images per category: {names}, or a CSV file with the columns category and images"
    add("--profile", metavar="NAME|FILE", default="cutouts", help=what)
    what = "which categories are frequent: random ones, or those with many cut-outs"
    add("--frequencies", choices=FREQUENCIES, default=spec.frequencies, help=what)
    what = "groups of categories and backgrounds that occur together"
    add("--scenes", type=int, default=spec.scenes, metavar="N", help=what)
    what = "probability that a category appears in an image of its own scene, not in any image"
    add("--scene-strength", type=float, default=spec.scene_strength, metavar="SHARE", help=what)
    _add_not_exhaustive(parser, spec)
    what = "size of objects relative to the shorter side of the image"
    add("--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), default=style.scale, help=what)
    what = "largest rotation in degrees"
    add("--rotation", type=float, default=style.max_rotation, metavar="DEGREES", help=what)
    add("--no-flip", action="store_true", help="do not mirror objects, such as with text on them")
    what = "strength of random gain, gamma and contrast"
    add("--light", type=float, default=style.light, metavar="STRENGTH", help=what)
    add("--blur", type=float, default=style.blur, metavar="PIXELS", help="largest blur")
    what = "smallest share of an object that others and the border leave visible"
    add("--min-visible", type=float, default=style.min_visible_share, metavar="SHARE", help=what)
    add("--processes", type=int, metavar="N", help="default: one per core")
    what = "fail unless the data have this hash, of all files or of the annotations"
    add("--expect-hash", metavar="SHA256", help=what)


def _add_not_exhaustive(parser: argparse.ArgumentParser, spec: LongTailSpec | CutoutSpec) -> None:
    parser.add_argument(
        "--not-exhaustive",
        type=float,
        default=spec.not_exhaustive_probability,
        metavar="SHARE",
        help="probability that an image with two objects of a category leaves one or more of them "
        "without annotation, and says so, as images of LVIS do; 0 annotates all",
    )


def _add_numbers_of_images(
    parser: argparse.ArgumentParser, spec: LongTailSpec | SemanticSpec | CutoutSpec
) -> None:
    add = parser.add_argument
    add("--train-images", type=int, default=spec.num_train_images, metavar="N")
    add("--val-images", type=int, default=spec.num_val_images, metavar="N")


def _add_common_arguments(
    parser: argparse.ArgumentParser,
    folder: str,
    spec: LongTailSpec | SemanticSpec | ClassificationSpec | CutoutSpec,
) -> None:
    add = parser.add_argument
    add("--root", type=Path, default=datasets_root() / folder, metavar="DIR")
    add("--image-size", type=int, nargs=2, metavar=("H", "W"), default=spec.image_size)
    add("--seed", type=seed, default=spec.seed)
    add("--overwrite", action="store_true", help="replace data generated with other parameters")


def longtail_spec(args: argparse.Namespace) -> LongTailSpec:
    """Return the specification of ``generate instances``."""
    return LongTailSpec(
        num_categories=args.categories,
        num_train_images=args.train_images,
        num_val_images=args.val_images,
        image_size=tuple(args.image_size),
        objects_per_image=tuple(args.objects),
        profile=PROFILES[args.profile],
        seed=args.seed,
        not_exhaustive_probability=args.not_exhaustive,
        write_images=not args.annotations_only,
    )


def semantic_spec(args: argparse.Namespace) -> SemanticSpec:
    """Return the specification of ``generate semantic``."""
    return SemanticSpec(
        num_train_images=args.train_images,
        num_val_images=args.val_images,
        image_size=tuple(args.image_size),
        seed=args.seed,
    )


def classification_spec(args: argparse.Namespace) -> ClassificationSpec:
    """Return the specification of ``generate classification``."""
    return ClassificationSpec(
        num_classes=args.classes,
        most_images=args.most,
        fewest_images=args.fewest,
        val_images_per_class=args.val_images,
        image_size=tuple(args.image_size),
        seed=args.seed,
    )


def cutout_profile(given: str) -> LongTailProfile | ListedProfile:
    """Return a profile by its name, or read it from a CSV file.

    Raises:
        ValueError: there is no such profile and no such file, or the file is not a profile.
    """
    if given in CUTOUT_PROFILES:
        return CUTOUT_PROFILES[given]
    if not Path(given).exists():
        raise ValueError(
            f"--profile {given}: expected {', '.join(CUTOUT_PROFILES)} or a CSV file, and there is "
            "no such file"
        )
    return ListedProfile.from_table(Path(given))


def cutout_spec(args: argparse.Namespace) -> CutoutSpec:
    """Return the specification of ``generate cutouts``."""
    return CutoutSpec(
        num_train_images=args.train_images,
        num_val_images=args.val_images,
        image_size=tuple(args.image_size),
        objects_per_image=tuple(args.objects),
        seed=args.seed,
        profile=cutout_profile(args.profile),
        frequencies=args.frequencies,
        held_out=args.held_out,
        scenes=args.scenes,
        scene_strength=args.scene_strength,
        not_exhaustive_probability=args.not_exhaustive,
        style=CutoutStyle(
            scale=tuple(args.scale),
            max_rotation=args.rotation,
            flip=not args.no_flip,
            light=args.light,
            blur=args.blur,
            min_visible_share=args.min_visible,
        ),
    )


def cutout_sources(args: argparse.Namespace) -> CutoutSources:
    """Return the pictures of ``generate cutouts``."""
    return CutoutSources(
        cutouts=args.cutouts,
        backgrounds=args.backgrounds,
        table=args.table,
        category_depth=args.category_depth,
        include=tuple(args.include),
        exclude=tuple(args.exclude),
        exclude_backgrounds=tuple(args.exclude_backgrounds),
    )


def describe_instances(dataset: GeneratedDataset | GeneratedCutouts) -> str:
    """Describe the files, the long tail and the images with few objects."""
    groups = dataset.group_sizes
    return (
        f"  training    {dataset.train_json}\n"
        f"  validation  {dataset.val_json}\n"
        f"  categories  {len(dataset.category_names)}: {groups['r']} rare, {groups['c']} common, "
        f"{groups['f']} frequent (in {min(dataset.train_image_counts)} to "
        f"{max(dataset.train_image_counts)} training images)"
        + "".join(
            f"\n  {'' if number else 'objects':10}  {line}"
            for number, line in enumerate(dataset.objects)
        )
    )


def describe_cutouts(dataset: GeneratedCutouts, spec: CutoutSpec) -> str:
    """Describe the files, the long tail, the cut-outs and the hashes."""
    used = dataset.num_cutouts
    lines = [
        *(f"  {line}" for line in dataset.left_out),
        describe_instances(dataset),
        f"  cut-outs    {used['train']} in training, {used['val']} others in validation",
        f"  SHA-256     {dataset.content_sha256} of all files",
        f"              {dataset.annotations_sha256} of the annotations",
    ]
    if spec.scenes > 1:
        share = f"{dataset.own_scene_share:.0%} of the objects are in their own scene"
        lines.insert(-2, f"  scenes      {spec.scenes}; {share}")
    return "\n".join(lines)


def describe_scenes(dataset: GeneratedSemanticDataset) -> str:
    """Describe the images and the classes."""
    return (
        f"  training    {dataset.num_images['train']} images\n"
        f"  validation  {dataset.num_images['val']} images\n"
        f"  classes     {len(dataset.classes)}: {', '.join(dataset.classes)}"
    )


def describe_pictures(dataset: GeneratedClassificationDataset) -> str:
    """Describe the lists and the long tail."""
    counts = dataset.train_counts
    return (
        f"  training    {dataset.root / 'train.txt'}: {sum(counts)} pictures\n"
        f"  validation  {dataset.root / 'val.txt'}: {dataset.num_val_images} pictures\n"
        f"  classes     {len(counts)}, with {min(counts)} to {max(counts)} training pictures"
    )


def _check_hash(dataset: GeneratedCutouts, expected: str | None) -> None:
    hashes = (dataset.content_sha256, dataset.annotations_sha256)
    if expected and expected.lower() not in hashes:
        raise ValueError(
            f"{dataset.root} has the hash {hashes[0]} (of the annotations: {hashes[1]}), "
            f"expected {expected}: the pictures, the options or the version differ"
        )


def main(arguments: list[str] | None = None) -> None:
    """Generate the dataset and describe it."""
    args = argument_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress without a terminal
    start = time.monotonic()
    with errors_in_one_line(f"generate {args.kind}"):
        if args.kind == "instances":
            dataset = generate_longtail_dataset(
                args.root, longtail_spec(args), processes=args.processes, overwrite=args.overwrite
            )
            description = describe_instances(dataset)
        elif args.kind == "semantic":
            dataset = generate_semantic_dataset(
                args.root, semantic_spec(args), overwrite=args.overwrite
            )
            description = describe_scenes(dataset)
        elif args.kind == "cutouts":
            spec = cutout_spec(args)
            dataset = generate_cutout_dataset(
                args.root,
                cutout_sources(args),
                spec,
                processes=args.processes,
                overwrite=args.overwrite,
            )
            description = describe_cutouts(dataset, spec)
            _check_hash(dataset, args.expect_hash)
        else:
            dataset = generate_classification_dataset(
                args.root, classification_spec(args), overwrite=args.overwrite
            )
            description = describe_pictures(dataset)
    seconds = time.monotonic() - start
    how = "complete, nothing to generate" if dataset.reused else f"generated in {seconds:.1f} s"
    say(f"{dataset.root}: {how}\n{description}")
