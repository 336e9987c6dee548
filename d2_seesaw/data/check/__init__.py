"""Check of a dataset in COCO or LVIS format: everything that is wrong, before training."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from d2_seesaw.data.annotations.coco import parse_file
from d2_seesaw.data.annotations.rules import ERROR, RULES, SEVERITIES
from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.check.annotations import check_annotations
from d2_seesaw.data.check.duplicates import check_duplicates
from d2_seesaw.data.check.finder import FileFinder
from d2_seesaw.data.check.images import ImageFile, check_images
from d2_seesaw.data.check.issues import Issue, number_by_kind
from d2_seesaw.data.check.names import check_names
from d2_seesaw.data.check.overview import ThresholdEffect, threshold_effects
from d2_seesaw.data.check.plausibility import check_plausibility


@dataclass(frozen=True)
class DatasetCheck:
    """The result of a check.

    Attributes:
        json_file: The annotations.
        image_root: The folder of the images.
        numbers: Numbers of images, annotations and categories in the file.
        images_read: Whether the images were read.
        issues: All issues, in the order of the rules.
        missing_folders: Number of images in each folder that does not exist.
        thresholds: The effects of thresholds of repeat factor sampling.
        categories: The categories, with "id" and "name".
    """

    json_file: str
    image_root: str
    numbers: Mapping[str, int]
    images_read: bool
    issues: Sequence[Issue]
    missing_folders: Mapping[str, int]
    thresholds: Sequence[ThresholdEffect] = ()
    categories: Sequence[Mapping[str, Any]] = ()

    @property
    def number_of_errors(self) -> int:
        """Number of issues that are errors."""
        return sum(issue.severity == ERROR for issue in self.issues)

    def to_json(self) -> dict[str, Any]:
        """Return everything in a JSON-serializable form."""
        severities = Counter(issue.severity for issue in self.issues)
        return {
            "json_file": self.json_file,
            "image_root": self.image_root,
            **self.numbers,
            "images_read": self.images_read,
            "by_severity": {severity: severities[severity] for severity in SEVERITIES},
            "by_kind": number_by_kind(self.issues),
            "missing_folders": dict(self.missing_folders),
            "thresholds": [asdict(effect) for effect in self.thresholds],
            "issues": [{"severity": i.severity, **asdict(i)} for i in self.issues],
        }

    def text(self, limit: int = 10) -> str:
        """Return a summary with at most ``limit`` issues of each kind."""
        counted = ", ".join(f"{number:,} {section}" for section, number in self.numbers.items())
        lines = [f"{self.json_file}: {counted}"]
        if not self.images_read:
            lines.append("  the images were not read")
        for folder, number in self.missing_folders.items():
            lines.append(f"  folder {folder} is missing: {number:,} images")
        by_kind = defaultdict(list)
        for issue in self.issues:
            by_kind[issue.kind].append(issue)
        for kind, issues in by_kind.items():
            rule = RULES[kind]
            lines.append(f"  {rule.severity}: {len(issues):,} x {rule.description} ({kind})")
            lines += [f"    {issue}" for issue in issues[:limit]]
            if issues[limit:]:
                lines.append(f"    ... and {len(issues) - limit:,} more")
        if self.thresholds:
            lines.append("  repeat factor sampling on this split:")
            lines += [f"    {effect}" for effect in self.thresholds]
        found = Counter(issue.severity for issue in self.issues)
        summary = ", ".join(f"{found[s]:,} x {s}" for s in SEVERITIES if found[s])
        lines.append(f"  found: {summary or 'nothing wrong'}")
        return "\n".join(lines)


def check_dataset(
    json_file: str | Path,
    image_root: str | Path,
    *,
    read_images: bool = True,
    duplicates: tuple[str | Path, str | Path] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> DatasetCheck:
    """Look for everything that would stop training on a dataset, or silently spoil it.

    Args:
        json_file: annotations in COCO or LVIS format.
        image_root: folder of the images, as for ``register_longtail_instances``.
        read_images: read every image to its end. Missing files are found in any case.
        duplicates: annotations and image folder of another split, whose images are looked for in
            this one by their content. Equal images of this split are found, too.
        workers: threads that read images; by default one per processor, at most 8.
        progress: show progress, see :class:`~d2_seesaw.utils.progress.Progress`.

    Raises:
        FileNotFoundError: there is no such annotation file.
        ValueError: it is not valid JSON.
    """
    parsed = parse_file(json_file, keep_all=True)
    issues = [*check_annotations(parsed), *check_plausibility(parsed), *check_names(parsed)]
    files = _image_files(parsed.table.images, image_root)
    issues += [*_shared(files), *_outside(files)]
    if duplicates is not None:
        others = {
            str(duplicates[0]): _image_files(parse_file(duplicates[0]).table.images, duplicates[1])
        }
        issues += check_duplicates(files, others, workers=workers, progress=progress)
    if read_images:
        issues += check_images(files, workers=workers, progress=progress)
    else:
        issues += [_missing(file) for file in files if not os.path.isfile(file.path)]
    folders = Counter(os.path.dirname(file.path) for file in files)
    rank = {kind: position for position, kind in enumerate(RULES)}
    return DatasetCheck(
        json_file=str(json_file),
        image_root=str(image_root),
        numbers=parsed.numbers,
        images_read=read_images,
        issues=sorted(_with_hints(issues, image_root), key=lambda issue: rank[issue.kind]),
        missing_folders={f: n for f, n in sorted(folders.items()) if not os.path.isdir(f)},
        thresholds=threshold_effects(parsed.table),
        categories=parsed.table.categories,
    )


def _image_files(images: Sequence[Mapping[str, Any]], image_root: str | Path) -> list[ImageFile]:
    """Return the images with a name; without one nothing can be read."""
    named = [image for image in images if image.get("file_name") or image.get("coco_url")]
    path_of = image_paths(named, image_root)
    return [
        ImageFile(
            path=path,
            file_name=_relative(path, image_root),
            image_id=image["id"],
            height=image.get("height"),
            width=image.get("width"),
        )
        for image in named
        for path in [path_of(image)]
    ]


def _relative(path: str, folder: str | Path) -> str:
    """Return ``os.path.relpath(path, folder)``, fast for most paths in the folder."""
    name = path.removeprefix(os.path.join(folder, ""))
    is_plain = name != path and os.path.normpath(name) == name
    if is_plain and not os.path.isabs(name) and not name.startswith(os.pardir):
        return name
    return os.path.relpath(path, folder)


def _missing(file: ImageFile) -> Issue:
    message = f"there is no file {file.path}"
    return Issue("missing_image", message, file_name=file.file_name, image_id=file.image_id)


def _with_hints(issues: Sequence[Issue], image_root: str | Path) -> list[Issue]:
    """Add to each missing image where its file is, if it is found."""
    finder = FileFinder(image_root)
    return [
        replace(issue, message=issue.message + hint)
        if issue.kind == "missing_image" and (hint := finder.hint(str(issue.file_name)))
        else issue
        for issue in issues
    ]


def _outside(files: Sequence[ImageFile]) -> list[Issue]:
    return [
        Issue(
            "file_outside_folder",
            f"{file.path} is outside of the folder of the images",
            file_name=file.file_name,
            image_id=file.image_id,
        )
        for file in files
        if file.file_name.startswith(os.pardir + os.sep)
    ]


def _shared(files: Sequence[ImageFile]) -> list[Issue]:
    first: dict[str, ImageFile] = {}
    return [
        Issue(
            "shared_file",
            f"this file is also image {first[file.path].image_id!r}",
            file_name=file.file_name,
            image_id=file.image_id,
        )
        for file in files
        if first.setdefault(file.path, file) is not file
    ]
