"""Images with equal content: in both splits, or twice in one split."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from d2_seesaw.data.annotations.reader import content_hash
from d2_seesaw.data.check.images import ImageFile
from d2_seesaw.data.check.issues import Issue
from d2_seesaw.utils.progress import track


def check_duplicates(
    images: Sequence[ImageFile],
    others: Mapping[str, Sequence[ImageFile]],
    *,
    workers: int | None = None,
    progress: bool = True,
) -> list[Issue]:
    """Look for images whose content another image has.

    Only files of equal size are read. Files that are missing are left out.

    Args:
        images: the images of the dataset.
        others: images of other splits, by the name of the split.
        workers: threads that read files; by default one per processor, at most 8.
        progress: show progress, see :class:`~d2_seesaw.utils.progress.Progress`.

    Returns:
        One issue for each image that is also an image of another split, and for each file whose
        content another file of the same split has.
    """
    splits = {None: images, **others}
    paths = {os.path.realpath(file.path) for files in splits.values() for file in files}
    content = content_keys(paths, workers=workers, progress=progress)
    issues, here = [], {}
    elsewhere = {
        name: {content[p]: file for file in files for p in [os.path.realpath(file.path)]}
        for name, files in others.items()
    }
    for file in images:
        path = os.path.realpath(file.path)
        if not os.path.isfile(path):
            continue
        key = content[path]
        for name, files in elsewhere.items():
            if key in files:
                issues.append(_issue(file, files[key], f" of {name}"))
        earlier = here.setdefault(key, file)
        if os.path.realpath(earlier.path) != path:
            issues.append(_issue(file, earlier, ""))
    return issues


def content_keys(
    paths: Iterable[str], *, workers: int | None = None, progress: bool = True
) -> dict[str, str]:
    """Return a text for each file that is the same for files of equal content, and for no others.

    Only files of equal size are read. A file that is missing is like no other.

    Args:
        paths: real paths.
        workers: threads that read files; by default one per processor, at most 8.
        progress: show progress, see :class:`~d2_seesaw.utils.progress.Progress`.
    """
    keys = {path: path for path in sorted(set(paths))}
    by_size = defaultdict(list)
    for path in keys:
        if os.path.isfile(path):
            by_size[os.path.getsize(path)].append(path)
    candidates = [p for same in by_size.values() if len(same) > 1 for p in same]
    threads = workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        hashes = track(
            pool.map(content_hash, candidates),
            "comparing images",
            total=len(candidates),
            unit="image",
            shown=progress,
        )
        return keys | dict(zip(candidates, hashes, strict=True))


def _issue(file: ImageFile, other: ImageFile, split: str) -> Issue:
    message = f"the content is that of image {other.image_id!r}{split}, {other.file_name}"
    return Issue("duplicate_image", message, file.file_name, file.image_id)
