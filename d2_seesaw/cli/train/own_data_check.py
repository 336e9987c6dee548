"""The check of own data before a config is chosen from them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2_seesaw.cli import say
from d2_seesaw.data.annotations.reader import read_annotations, read_categories
from d2_seesaw.data.annotations.rules import ERROR, RULES
from d2_seesaw.data.check import DatasetCheck, check_dataset
from d2_seesaw.data.class_names import compare_with_trained
from d2_seesaw.own_data import OwnData
from d2_seesaw.own_data.split import split_images, write_split

_MOST_IMAGES_READ = 5000
_ISSUES_SHOWN = 3


def checked_data(given: Sequence[str], images: str, folder: Path) -> OwnData:
    """Check the annotations of both splits, or of one file, which is split.

    Args:
        given: one or two annotation files.
        images: folder of the images of both.
        folder: output folder, which the parts of a split are written to.

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
        split = split_images(read_annotations(files[0]))
        files = list(write_split(files[0], split, folder))
        say(f"{given[0]} is split by image: {files[0]} and {files[1]}")
        if split.only_trained:
            names = ", ".join(split.only_trained[:5]) + ", ..." * (len(split.only_trained) > 5)
            say(f"  {len(split.only_trained)} categories cannot be evaluated: {names}")
    else:
        train, val = ([str(c["name"]) for c in read_categories(file)] for file in files)
        compare_with_trained(train, val, source=str(files[0]), target=str(files[1])).log()
    return OwnData(files[0], files[1], Path(images))


def _checked(json_file: Path, images: str, others: Sequence[Path]) -> int:
    """Print what `d2-seesaw check` finds in a file, and return the number of errors."""
    check = check_dataset(json_file, images, read_images=False)
    if not check.number_of_errors and check.numbers["images"] <= _MOST_IMAGES_READ:
        duplicates = (others[0], images) if others else None
        check = check_dataset(json_file, images, duplicates=duplicates)
    nothing = _nothing_to_evaluate(check) if others else ""
    if others:
        issues = [issue for issue in check.issues if not RULES[issue.kind].training_only]
        check = replace(check, issues=issues)
    say(replace(check, thresholds=()).text(_ISSUES_SHOWN))  # the choices have the threshold
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
