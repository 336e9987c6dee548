"""Hand-over of ground truth and predictions to FiftyOne and supervision, packages to look at data.

Each function imports its package when it is called.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from detectron2.structures import Instances, ROIMasks
from pycocotools import mask as coco_mask

from d2_seesaw.data.catalog import image_paths
from d2_seesaw.data.image_files import ImageFolder, open_image
from d2_seesaw.data.rle import encode_bitmap, encode_instances, encode_segmentation
from d2_seesaw.evaluation.analysis.judging import Entry, JudgedDataset, read_judged

_Path = str | PathLike[str]

logger = logging.getLogger(__name__)


def to_supervision(instances: Instances, class_names: Sequence[str] = ()) -> Any:
    """Convert the prediction of a model for one image.

    Args:
        instances: ``predictor(image)["instances"]``, with ``pred_boxes``, ``scores`` and
            ``pred_classes``; ``pred_masks`` are optional.
        class_names: Names of the model's classes, such as ``predictor.class_names``.

    Returns:
        ``supervision.Detections`` with the masks of the whole image, and ``data["class_name"]`` if
        names are given.

    Raises:
        ImportError: supervision is not installed.
    """
    sv = _import("supervision")
    instances = instances.to("cpu")
    classes = instances.pred_classes.numpy().astype(int)
    masks = None
    if instances.has("pred_masks"):
        masks = _bitmaps(instances)
    names = np.array([class_names[c] for c in classes.tolist()], dtype=str) if class_names else None
    return sv.Detections(
        xyxy=instances.pred_boxes.tensor.numpy().reshape(-1, 4),
        confidence=instances.scores.numpy(),
        class_id=classes,
        mask=masks,
        data={} if names is None else {"class_name": names},
    )


def _bitmaps(instances: Instances) -> np.ndarray:
    masks = instances.pred_masks
    if isinstance(masks, ROIMasks):
        encoded: Any = encode_instances(instances)
        masks = [coco_mask.decode(rle) for rle in encoded]
    return np.array([np.asarray(m) for m in masks], bool).reshape(-1, *instances.image_size)


def to_supervision_dataset(
    annotations: _Path,
    images: _Path,
    results: _Path | None = None,
    *,
    min_score: float = 0.0,
    **options: Any,
) -> Any:
    """Convert the ground truth, or saved detections in its images.

    Args:
        annotations: JSON file in the format of LVIS or COCO.
        images: Folder of the images. Those that are missing are left out, with a warning.
        results: Detections, a JSON file in the COCO results format or the ``.npz`` file of an
            evaluation; None for the ground truth.
        min_score: Lowest score of a detection.
        **options: See :func:`~d2_seesaw.evaluation.analysis.judging.read_judged`.

    Returns:
        ``supervision.DetectionDataset``. Its classes are the categories in order of their ids. The
        ``data`` of the annotations have "class_name" and "frequency_group", of detections also
        "error_kind". Masks are compact.

    Raises:
        ImportError: supervision is not installed.
        FileNotFoundError: a file, or all images, do not exist.
        ValueError: a file has the wrong format, or does not fit the other.
    """
    sv = _import("supervision")
    dataset = read_judged(annotations, results, **options)
    found = {}
    for index, path, size in _images(dataset, images):
        entries = dataset.objects(index)
        if results is not None:
            entries = dataset.found(index, min_score)
        found[path] = _sv_detections(sv, dataset, entries, size, with_scores=results is not None)
    return sv.DetectionDataset(classes=dataset.names, images=list(found), annotations=found)


def _sv_detections(
    sv: Any,
    dataset: JudgedDataset,
    entries: Sequence[Entry],
    size: tuple[int, int],
    *,
    with_scores: bool,
) -> Any:
    boxes = np.array([entry.box for entry in entries], np.float32).reshape(-1, 4)
    groups = np.array([dataset.groups[entry.category] for entry in entries], dtype=str)
    data = {"frequency_group": groups}
    if with_scores:
        data["error_kind"] = np.array([entry.kind for entry in entries], dtype=str)
    scores = np.array([entry.score for entry in entries], np.float32) if with_scores else None
    return sv.Detections(
        xyxy=np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
        class_id=np.array([entry.category for entry in entries], dtype=int),
        confidence=scores,
        mask=_compact_masks(sv, entries, size),
        data=data,
    )


def _compact_masks(sv: Any, entries: Sequence[Entry], size: tuple[int, int]) -> Any:
    """Return masks of all entries, None if none has one. Masks are kept by their own extent."""
    if not any(entry.segmentation for entry in entries):
        return None
    rles = [_encoded(entry, size) or encode_bitmap(np.zeros(size)) for entry in entries]
    extents = coco_mask.toBbox(rles)  # type: ignore[arg-type]
    # The largest coordinates are inclusive there.
    corners = np.hstack([extents[:, :2], extents[:, :2] + np.maximum(extents[:, 2:], 1) - 1])
    return sv.CompactMask.from_coco_rle(rles, corners, image_shape=size)


def to_fiftyone(
    annotations: _Path,
    images: _Path,
    results: _Path | None = None,
    *,
    name: str | None = None,
    persistent: bool = False,
    min_score: float = 0.0,
    **options: Any,
) -> Any:
    """Make a FiftyOne dataset of the ground truth, and of saved detections.

    Each sample has the field "ground_truth" and, with results, "predictions", and the "image_id".
    Their labels are class names, with the mask inside of the box, and "confidence" for detections.
    Attributes are "frequency_group" ("r", "c", "f" or "n/a") and "iscrowd" and, with results,
    "error_kind", see :class:`~d2_seesaw.evaluation.analysis.error_kinds.ErrorKinds`, and
    "other_class": the class that an object is taken for, or that the object of a confused detection
    has.

    Args:
        annotations: JSON file in the format of LVIS or COCO.
        images: Folder of the images. Those that are missing are left out, with a warning.
        results: Detections, a JSON file in the COCO results format or the ``.npz`` file of an
            evaluation; None for the ground truth alone.
        name: Name of the dataset; by default FiftyOne makes one.
        persistent: Whether FiftyOne keeps the dataset after the session.
        min_score: Lowest score of a detection.
        **options: See :func:`~d2_seesaw.evaluation.analysis.judging.read_judged`.

    Returns:
        ``fiftyone.Dataset``.

    Raises:
        ImportError: FiftyOne is not installed.
        FileNotFoundError: a file, or all images, do not exist.
        ValueError: a file has the wrong format, or does not fit the other; or FiftyOne has a
            dataset of this name.
    """
    fo = _import("fiftyone")
    judged = read_judged(annotations, results, **options)
    samples = []
    for index, path, size in _images(judged, images):
        sample = fo.Sample(filepath=path, image_id=str(judged.table.images[index]["id"]))
        sample["ground_truth"] = _fo_detections(fo, judged, judged.objects(index), size)
        if results is not None:
            found = judged.found(index, min_score)
            sample["predictions"] = _fo_detections(fo, judged, found, size, with_scores=True)
        samples.append(sample)
    dataset = fo.Dataset(name, persistent=persistent)
    dataset.default_classes = judged.names
    dataset.add_samples(samples, dynamic=True, progress=False)
    return dataset


def _fo_detections(
    fo: Any,
    dataset: JudgedDataset,
    entries: Sequence[Entry],
    size: tuple[int, int],
    *,
    with_scores: bool = False,
) -> Any:
    detections = []
    for entry in entries:
        extra: dict[str, Any] = {"frequency_group": dataset.groups[entry.category]}
        if with_scores:
            extra["confidence"] = entry.score
        else:
            extra["iscrowd"] = entry.crowd
        if dataset.kinds is not None:
            extra["error_kind"] = entry.kind
            other = entry.other
            extra["other_class"] = None if other is None else dataset.names[other]
        height, width = size
        x, y, w, h = entry.box
        detections.append(
            fo.Detection(
                label=dataset.names[entry.category],
                bounding_box=[x / width, y / height, w / width, h / height],
                mask=_mask_in_box(entry, size),
                **extra,
            )
        )
    return fo.Detections(detections=detections)


def _mask_in_box(entry: Entry, size: tuple[int, int]) -> np.ndarray | None:
    rle = _encoded(entry, size)
    if rle is None:
        return None
    height, width = size
    x, y, w, h = entry.box
    # Outward to whole pixels, but not for the rounding of float32.
    left, top = (max(0, int(np.floor(v + 1e-3))) for v in (x, y))
    right, bottom = min(width, int(np.ceil(x + w - 1e-3))), min(height, int(np.ceil(y + h - 1e-3)))
    encoded: Any = rle
    mask: Any = coco_mask.decode(encoded)
    inside = mask[top:bottom, left:right].astype(bool)
    return inside if inside.size else None


def _encoded(entry: Entry, size: tuple[int, int]) -> dict[str, Any] | None:
    return encode_segmentation(entry.segmentation, size) if entry.segmentation else None


def _images(dataset: JudgedDataset, images: _Path) -> Iterator[tuple[int, str, tuple[int, int]]]:
    """Yield index, absolute path, and height and width of each image that is there."""
    folder = ImageFolder(images)
    path_of = image_paths(dataset.table.images, str(folder.root))
    failures = []
    for index, image in enumerate(dataset.table.images):
        try:
            path = folder.path_inside(path_of(image))
            if not os.path.isfile(path):
                raise FileNotFoundError(f"{path} does not exist")
            size = _size(image, path)
        except (OSError, ValueError, StopIteration) as error:
            failures.append(str(error) or f"image {image['id']!r} has no file name")
            continue
        yield index, path, size
    if len(failures) == len(dataset.table.images):
        reason = f", the first: {failures[0]}" if failures else ""
        raise FileNotFoundError(f"none of the images is in {images}{reason}")
    if failures:
        logger.warning("%d images are left out, the first: %s", len(failures), failures[0])


def _size(image: Mapping[str, Any], path: str) -> tuple[int, int]:
    if "height" in image and "width" in image:
        return image["height"], image["width"]
    with open_image(path) as opened:
        return opened.height, opened.width


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed ({error}): pip install {package}, or "
            f"pip install 'd2_seesaw[{package}]'"
        ) from error
