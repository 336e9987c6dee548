"""Draw ground truth and predictions side by side, as picture files or as one page to leaf through.

RUN is the output folder of a training, or the folder of an evaluation in it. Its config.yaml says
where annotations and images are. Other results need --annotations and --images; without results,
the ground truth alone is drawn. No model is run.

A detection is right, or wrong in one of four ways: confused (on an object of another class),
duplicate, localization (IoU of 0.1 to 0.5), background. What LVIS does not count is "not judged".
An object is right, confused (taken for another class) or missed.

Examples:
  d2-seesaw draw output/quickstart/seesaw
  d2-seesaw draw output/quickstart/seesaw --page errors.html --sort errors
  d2-seesaw draw output/quickstart/seesaw --group r --errors missed confused --num-images 20
  d2-seesaw draw --results results.json --annotations val.json --images images/val
  d2-seesaw draw --annotations train.json --images images/train --page train.html
"""

import argparse
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import detectron2.data.datasets  # noqa: F401  registers the built-in datasets
from detectron2.data import MetadataCatalog

from d2_seesaw.cli import (
    add_image_options,
    command_parser,
    count,
    errors_in_one_line,
    finite,
    say,
    seed,
)
from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.data.image_files import MAX_PIXELS, ImageFolder, check_overwrites_no_source
from d2_seesaw.data.saved_datasets import register_saved_datasets
from d2_seesaw.engine import load_config
from d2_seesaw.evaluation.analysis.error_kinds import KINDS
from d2_seesaw.evaluation.analysis.judging import JudgedDataset, read_judged
from d2_seesaw.evaluation.lvis.annotations import annotation_file, registered_train_images
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.files import RESULTS
from d2_seesaw.inference.drawing import enlargement, fonts_for
from d2_seesaw.report.images.page import images_beside, read_images, write_image_page
from d2_seesaw.report.images.picture_files import earlier_pictures, picture_names
from d2_seesaw.report.images.pictures import draw_side_by_side
from d2_seesaw.report.images.selection import (
    ORDERS,
    Selection,
    categories_named,
    images_named,
    order_images,
)
from d2_seesaw.utils.files import atomic_write
from d2_seesaw.utils.marks import check_replaceable, marked_png

_KIND_OF = {kind.replace(" ", "-"): kind for kind in KINDS}
_PICTURES, _IMAGES_OF_A_PAGE = 6, 500
_FAILURES_SHOWN = 5


@dataclass(frozen=True)
class Source:
    """Files to draw from.

    Attributes:
        annotations: The annotations.
        results: The detections, None for the ground truth alone.
        images: Folder of the images.
        output: Folder for the pictures.
        dataset: Name of the registered dataset, if there is one.
    """

    annotations: str
    results: Path | None
    images: str
    output: Path
    dataset: str | None = None


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("draw", __doc__)
    add = parser.add_argument
    add("run", nargs="?", type=Path, metavar="RUN", help="folder of a training or an evaluation")
    add("--config-file", metavar="FILE", help="config.yaml of the run; default: the one in RUN")
    add("--results", type=Path, metavar="FILE", help="detections: .json, or .npz of an evaluation")
    add("--annotations", metavar="FILE", help="annotations in LVIS or COCO format")
    add("--images", metavar="DIR", help="folder of the images")
    add("--train-annotations", metavar="FILE", help="training annotations, for frequency groups")
    predicted = "images.json of `d2-seesaw predict`; default: the one beside its results"
    add("--predicted-images", metavar="FILE", help=predicted)
    add("--task", choices=TASKS, help="matches by boxes or masks; default: masks if there are any")
    add("--page", type=Path, metavar="FILE", help="write one HTML page to leaf through")
    add("--output", type=Path, metavar="DIR", help="folder for PNG files; default: RUN/pictures")
    _add_filters(parser)
    add("--overwrite", action="store_true", help="replace files that this command has not written")
    add("--min-side", type=count, default=480, metavar="PIXELS", help="enlarge smaller images")
    add_image_options(parser, MAX_PIXELS)
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is shown")
    add = group.add_argument
    add("--classes", nargs="+", metavar="NAME", help="objects and detections of these classes")
    add("--group", nargs="+", choices=GROUPS, help="of rare, common or frequent classes")
    add("--errors", nargs="+", choices=list(_KIND_OF), metavar="KIND", help=", ".join(_KIND_OF))
    add("--min-score", type=finite, default=0.3, metavar="SCORE", help="default: 0.3")
    add("--image-ids", nargs="+", metavar="ID", help="images with these ids")
    add("--files", nargs="+", metavar="NAME", help="images with these file names")
    number = f"default: {_PICTURES}, in a page {_IMAGES_OF_A_PAGE}"
    add("--num-images", type=count, metavar="N", help=number)
    order = group.add_mutually_exclusive_group()
    order.add_argument(
        "--sort",
        choices=[name for name in ORDERS if name != "random"],
        default="id",
        help="most errors first, or highest score of a shown detection first; default: id",
    )
    order.add_argument("--seed", type=seed, metavar="N", help="images at random, with this seed")


def find_source(args: argparse.Namespace) -> Source:
    """Return the files that the arguments name, or those of the run.

    Raises:
        FileNotFoundError: the run has no results.
        ValueError: it is not known where annotations or images are.
    """
    run: Path | None = args.run
    if run is not None and not run.is_dir():
        raise FileNotFoundError(f"the folder of the run, {run}, does not exist")
    config = args.config_file or (run and _config_of(run))
    known = None
    if config is not None:
        cfg = load_config(str(config), parts=())  # registers datasets
        register_saved_datasets(config)
        run = run or Path(cfg.train.output_dir)
        if not args.annotations:
            names = cfg.dataloader.test.dataset.names
            known = names if isinstance(names, str) else names[0]
    results = args.results or (run and _results_of(run))
    if args.errors and results is None:
        raise ValueError("--errors needs --results: without detections there are no errors")
    annotations, images = _data_of(args, known)
    return Source(annotations, results, images, (run or Path()) / "pictures", known)


def _config_of(run: Path) -> Path | None:
    places = (folder / "config.yaml" for folder in (run, run.parent))
    return next((place for place in places if place.is_file()), None)


def _results_of(run: Path) -> Path:
    folders = (run, run / "inference")
    found = [folder / name for folder in folders for name in RESULTS if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folders[1]} has no {' or '.join(RESULTS)}: evaluate the run first"
        )
    return found[0]


def _data_of(args: argparse.Namespace, dataset: str | None) -> tuple[str, str]:
    """Return the annotations and the folder of the images, as given or of a dataset."""
    annotations, images = args.annotations, args.images
    if dataset:
        annotations = annotation_file(dataset)
        images = images or MetadataCatalog.get(dataset).get("image_root")
    if not (annotations and images):
        given = {"--annotations FILE": annotations, "--images DIR": images}
        missing = [option for option, value in given.items() if not value]
        run = args.run or args.config_file
        hint = f"{run} does not give them" if run else "or give a RUN"
        raise ValueError(f"needs {' and '.join(missing)}; {hint}")
    if not Path(images).is_dir():
        raise ValueError(f"the folder of images {images} does not exist")
    return annotations, images


def selection_of(args: argparse.Namespace, dataset: JudgedDataset) -> Selection:
    """Return the selection that the arguments ask for."""
    return Selection(
        categories=categories_named(dataset, args.classes, args.group),
        kinds=None if args.errors is None else {_KIND_OF[kind] for kind in args.errors},
        min_score=args.min_score,
        images=images_named(dataset, args.image_ids, args.files),
    )


def draw(args: argparse.Namespace) -> list[str]:
    """Write the pictures, or the page, and return lines that say where they are.

    Images that cannot be read, are too large or are outside of the dataset's folder are left out
    with a line. Pictures of earlier calls are removed from the run's folder, but not from a given
    one.

    Raises:
        FileNotFoundError: the config, the results or the dataset do not exist.
        FileExistsError: a file of the user's would be replaced.
        ValueError: a file cannot be read, nothing is selected, or a picture or page could replace
            an image.
        WriteError: a file cannot be written.
    """
    if args.page and args.page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--page must end with .html, got {args.page}")
    source = find_source(args)
    dataset = read_judged(
        source.annotations,
        source.results,
        task=args.task,
        train_image_counts=args.train_annotations,
        registered_counts=registered_train_images(source.dataset) if source.dataset else None,
        predicted_images=args.predicted_images,
    )
    selection = selection_of(args, dataset)
    order, seed = (args.sort, 0) if args.seed is None else ("random", args.seed)
    images = order_images(dataset, selection, order, seed)
    if not images:
        raise ValueError("no image has an object or detection that passes the filters")
    check_outputs(args, source, dataset, images)
    folder = ImageFolder(source.images, args.follow_links, args.max_pixels)
    lines = list(_hints(args, dataset))
    if args.page:
        lines += _write_page(args, source, dataset, selection, images, folder)
    if args.output or not args.page:
        lines += _write_pictures(args, source, dataset, selection, images, folder)
    return lines


def check_outputs(
    args: argparse.Namespace, source: Source, dataset: JudgedDataset, images: Sequence[int]
) -> None:
    """Refuse outputs that could replace an image of the dataset or another file of the user's.

    Raises:
        ValueError: an image of the dataset is in the folder of the pictures or of a page's images.
        FileExistsError: without ``--overwrite``, a file that would be replaced is not from this
            command.
    """
    path_of = image_paths(dataset.table.images, source.images)
    places = {os.path.dirname(path): path for path in map(path_of, dataset.table.images)}
    if args.output or not args.page:
        check_overwrites_no_source((args.output or source.output) / "1.png", places.values())
    if args.page:
        check_overwrites_no_source(images_beside(args.page) / "1.jpg", places.values())
    if args.overwrite:
        return
    if args.page:
        numbered = images_beside(args.page).glob("*.jpg")
        check_replaceable([args.page, *sorted(p for p in numbered if p.stem.isdecimal())])
    if args.output or not args.page:
        paths = _picture_paths(args, source, dataset)
        check_replaceable(paths[index] for index in images[: args.num_images or _PICTURES])


def _picture_paths(
    args: argparse.Namespace, source: Source, dataset: JudgedDataset
) -> Sequence[Path]:
    """Return the path of the picture of each image of the dataset."""
    output = args.output or source.output
    return [output / name for name in picture_names(dataset.table.images)]


def _hints(args: argparse.Namespace, dataset: JudgedDataset) -> Iterator[str]:
    scores = dataset.detections.scores_of(dataset.task)
    if len(scores) and scores.max() < args.min_score:
        yield (
            f"No detection has a score of {args.min_score:g} or more, the highest is "
            f"{scores.max():.3f}: --min-score shows lower ones"
        )


def _write_page(
    args: argparse.Namespace,
    source: Source,
    dataset: JudgedDataset,
    selection: Selection,
    images: Sequence[int],
    folder: ImageFolder,
) -> list[str]:
    number = args.num_images or _IMAGES_OF_A_PAGE
    failures = write_image_page(
        args.page,
        dataset,
        images,
        folder,
        min_score=args.min_score,
        selection=selection,
        number=number,
        subtitle=str(source.results or source.annotations),
    )
    size = args.page.stat().st_size / 1e6
    shown = min(number, len(images) - len(failures))
    some = f" of {len(images)}; --num-images shows more" if shown < len(images) else ""
    return [*_left_out(failures), f"Page: {args.page} ({shown} images{some}; {size:.1f} MB)"]


def _write_pictures(
    args: argparse.Namespace,
    source: Source,
    dataset: JudgedDataset,
    selection: Selection,
    images: Sequence[int],
    folder: ImageFolder,
) -> list[str]:
    output = args.output or source.output
    output.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    paths, written = _picture_paths(args, source, dataset), set()
    with fonts_for(dataset.names):
        for index, pixels in read_images(dataset, images, folder, failures):
            if not args.overwrite:  # an image that cannot be read gives its turn to another one
                check_replaceable([paths[index]])
            scale = enlargement(pixels.shape[:2], args.min_side)
            picture = draw_side_by_side(pixels, dataset, index, selection, scale)
            with atomic_write(paths[index], durable=False) as file:
                file.write(marked_png(cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()))
            written.add(paths[index])
            if len(written) == (args.num_images or _PICTURES):
                break
    if not written:
        raise ValueError(f"none of {len(images)} images can be drawn, the first: {failures[0]}")
    sides = "" if dataset.kinds is None else " (ground truth left, predictions right)"
    lines = [*_left_out(failures), f"Pictures: {len(written)} in {output}{sides}"]
    if earlier := earlier_pictures(output, "*.png", written):
        own = args.output is None
        for path in earlier if own else ():
            path.unlink()
        kept = "were removed" if own else "stay there; another --output shows the new ones alone"
        lines.append(f"Pictures of earlier calls: {len(earlier)} {kept}")
    return lines


def _left_out(failures: Sequence[str]) -> list[str]:
    lines = [f"left out: {failure}" for failure in failures[:_FAILURES_SHOWN]]
    if len(failures) > _FAILURES_SHOWN:
        lines.append(f"left out: {len(failures) - _FAILURES_SHOWN} more images")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Draw, and print where the files are."""
    args = argument_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")  # to stderr
    logging.getLogger("d2_seesaw").setLevel(logging.INFO)  # not the lines of other packages
    with errors_in_one_line("draw"):
        say("\n".join(draw(args)))
