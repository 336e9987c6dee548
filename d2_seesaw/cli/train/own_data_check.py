"""The check of own data before a config is chosen from them."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2_seesaw.cli import say
from d2_seesaw.data.annotations.reader import read_annotations, read_categories
from d2_seesaw.data.annotations.rules import ERROR, RULES
from d2_seesaw.data.check import DatasetCheck, check_dataset
from d2_seesaw.data.class_names import compare_with_trained
from d2_seesaw.own_data import OwnData
from d2_seesaw.own_data.config_file import NAME
from d2_seesaw.own_data.groups import find_groups
from d2_seesaw.own_data.split import split_images
from d2_seesaw.own_data.split_files import EarlierSplit, write_split

_MOST_IMAGES_READ = 5000
_ISSUES_SHOWN = 3


def checked_data(
    given: Sequence[str], images: str, folder: Path, group_by: str | None = None
) -> OwnData:
    """Check the annotations of both splits, or of one file, which is split.

    Args:
        given: one or two annotation files.
        images: folder of the images of both.
        folder: output folder, which the parts of a split are written to. Images of the split that
            an earlier config in it names stay in their part.
        group_by: pattern of names that are split together, see
            :func:`~d2_seesaw.own_data.groups.find_groups`.

    Raises:
        ValueError: errors in the data, or an evaluated category that is not trained.
    """
    files = [Path(file) for file in given]
    number = sum(_checked(file, images, files[:position]) for position, file in enumerate(files))
    if number:
        raise ValueError(
            f"the data have {number:,} error{'s' * (number > 1)}, see above; nothing was trained. "
            "`d2-seesaw check` lists all of them, and --fix mends some"
        )
    if len(files) == 1:
        files = _split(files[0], images, folder, group_by)
    else:
        train, val = ([str(c["name"]) for c in read_categories(file)] for file in files)
        compare_with_trained(train, val, source=str(files[0]), target=str(files[1])).log()
    return OwnData(files[0], files[1], Path(images))


def _split(json_file: Path, images: str, folder: Path, group_by: str | None) -> list[Path]:
    """Split a file, print how, and return the files of both parts."""
    table = read_annotations(json_file)
    groups = find_groups(table.images, images, group_by)
    earlier = EarlierSplit.of(folder / NAME)
    is_same = earlier is not None and earlier.source.group_by == group_by
    kept = earlier.in_val if earlier is not None and is_same else None
    split = split_images(table, groups=groups.of_image, earlier=kept)
    files = list(write_split(json_file, split, folder, group_by))
    trained = len(table.images) - len(split.val)
    say(
        f"{json_file} is split by image: {files[0]} ({trained:,} images) and {files[1]} "
        f"({len(split.val):,} images)"
    )
    if text := groups.text():
        say(f"  {text}")
    if groups.unmatched:
        say(f"  --group-by matches no part of {groups.unmatched:,} names, which are split by image")
    if earlier is not None:
        stay, to_train, to_val = earlier.moved(table.images, split)
        new = len(table.images) - stay - to_train - to_val
        say(
            f"  {stay:,} images are in their part of the earlier split, {new:,} are new"
            + f", {to_train:,} that were evaluated are trained on now" * (to_train > 0)
        )
        if to_val:
            say(
                f"  warning: the earlier split was by {earlier.source.group_by or 'image'}, and an "
                f"earlier model was trained on {to_val:,} of the images that are evaluated now: "
                "its AP on them is too high"
            )
    if split.only_trained:
        names = ", ".join(split.only_trained[:5]) + ", ..." * (len(split.only_trained) > 5)
        say(f"  {len(split.only_trained)} categories cannot be evaluated: {names}")
    return files


def _checked(json_file: Path, images: str, others: Sequence[Path]) -> int:
    """Print what `d2-seesaw check` finds in a file, and return the number of errors."""
    check = check_dataset(json_file, images, read_images=False)
    is_sound = not check.number_of_errors
    reads = check.numbers["images"] <= _MOST_IMAGES_READ
    duplicates = (others[0], images) if others else None
    if is_sound and (reads or duplicates):
        check = check_dataset(json_file, images, read_images=reads, duplicates=duplicates)
    nothing = _nothing_to_evaluate(check) if others else ""
    if others:
        issues = [issue for issue in check.issues if not RULES[issue.kind].training_only]
        check = replace(check, issues=issues)
    say(replace(check, thresholds=()).text(_ISSUES_SHOWN))  # the choices have the threshold
    if is_sound and not reads:
        say(
            f"  more than {_MOST_IMAGES_READ:,} images are not read to their end; "
            f"`{shlex.join(['d2-seesaw', 'check', str(json_file), images])}` reads them"
        )
    if nothing:
        say(f"  error: nothing to evaluate on: {nothing}")
    return check.number_of_errors + bool(nothing)


def _nothing_to_evaluate(check: DatasetCheck) -> str:
    """Return why a file cannot be evaluated although it has no other errors, or empty text."""
    errors = [issue for issue in check.issues if RULES[issue.kind].severity == ERROR]
    if not errors or not all(RULES[issue.kind].training_only for issue in errors):
        return ""
    crowds = read_annotations(check.json_file).crowd
    if not crowds.all():
        return ""  # such as objects without a usable mask, whose boxes count
    return f"all {len(crowds):,} annotations are crowds" if len(crowds) else "it has no annotations"
