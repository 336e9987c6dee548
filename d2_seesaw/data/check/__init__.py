"""Says before training what is wrong with a data set in COCO or LVIS format."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2_seesaw.data.annotations.reader import parse_json
from d2_seesaw.data.annotations.schema import problem_of_name
from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.check.annotations import SECTIONS, check_annotations
from d2_seesaw.data.check.images import ImageFile, check_images
from d2_seesaw.data.check.issues import ERROR, KINDS, SEVERITIES, Issue, number_by_kind


@dataclass(frozen=True)
class DatasetCheck:
    """What was looked at, and all that was found.

    Attributes:
        json_file: The annotations.
        image_root: The folder of the images.
        numbers: How many images, annotations and categories the file lists.
        images_read: Whether the images were read.
        issues: Everything found, in the order of the kinds.
        missing_folders: Images whose folder is not there, by folder.
    """

    json_file: str
    image_root: str
    numbers: Mapping[str, int]
    images_read: bool
    issues: Sequence[Issue]
    missing_folders: Mapping[str, int]

    @property
    def number_of_errors(self) -> int:
        """How many of the issues are errors."""
        return sum(issue.severity == ERROR for issue in self.issues)

    def to_json(self) -> dict[str, Any]:
        """Everything, as values that JSON can hold."""
        severities = Counter(issue.severity for issue in self.issues)
        return {
            "json_file": self.json_file,
            "image_root": self.image_root,
            **self.numbers,
            "images_read": self.images_read,
            "by_severity": {severity: severities[severity] for severity in SEVERITIES},
            "by_kind": number_by_kind(self.issues),
            "missing_folders": dict(self.missing_folders),
            "issues": [{"severity": i.severity, **asdict(i)} for i in self.issues],
        }

    def text(self, limit: int = 10) -> str:
        """A summary with at most ``limit`` issues of each kind."""
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
            severity, description = KINDS[kind]
            lines.append(f"  {severity}: {len(issues):,} x {description} ({kind})")
            lines += [f"    {issue}" for issue in issues[:limit]]
            if issues[limit:]:
                lines.append(f"    ... and {len(issues) - limit:,} more")
        found = Counter(issue.severity for issue in self.issues)
        summary = ", ".join(f"{found[s]:,} x {s}" for s in SEVERITIES if found[s])
        lines.append(f"  found: {summary or 'nothing wrong'}")
        return "\n".join(lines)


def check_dataset(
    json_file: str | Path,
    image_root: str | Path,
    *,
    read_images: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> DatasetCheck:
    """Look for everything that would stop a training on a data set, or silently spoil it.

    Args:
        json_file: annotations in COCO or LVIS format.
        image_root: folder of the images, as for ``register_longtail_instances``.
        read_images: read every image to its end. Whether it is there is looked up in any case.
        workers: threads that read images; by default one per processor, at most 8.
        progress: show how far it is, see :class:`~d2_seesaw.utils.progress.Progress`.

    Raises:
        FileNotFoundError: there is no such annotation file.
        ValueError: it is no JSON.
    """
    content = parse_json(json_file)
    issues = check_annotations(content)
    files = _image_files(content, image_root)
    issues += _shared(files)
    if read_images:
        issues += check_images(files, workers=workers, progress=progress)
    else:
        issues += [_missing(file) for file in files if not os.path.isfile(file.path)]
    folders = Counter(os.path.dirname(file.path) for file in files)
    rank = {kind: position for position, kind in enumerate(KINDS)}
    return DatasetCheck(
        json_file=str(json_file),
        image_root=str(image_root),
        numbers={section: _length(content.get(section)) for section in SECTIONS},
        images_read=read_images,
        issues=sorted(issues, key=lambda issue: rank[issue.kind]),
        missing_folders={f: n for f, n in sorted(folders.items()) if not os.path.isdir(f)},
    )


def _length(section: Any) -> int:
    return len(section) if isinstance(section, list) else 0


def _image_files(content: Mapping[str, Any], image_root: str | Path) -> list[ImageFile]:
    """The images that the annotations name, for those without a name nothing can be read."""
    images = content.get("images")
    entries = images if isinstance(images, list) else []
    named = [i for i in entries if isinstance(i, dict) and problem_of_name(i) is None]
    path_of = image_paths(named, image_root)
    return [
        ImageFile(
            path=path_of(image),
            file_name=os.path.relpath(path_of(image), image_root),
            image_id=image.get("id"),
            height=image.get("height"),
            width=image.get("width"),
        )
        for image in named
    ]


def _missing(file: ImageFile) -> Issue:
    message = f"there is no file {file.path}"
    return Issue("missing_image", message, file_name=file.file_name, image_id=file.image_id)


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
