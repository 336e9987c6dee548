"""Detector without classes, from which recipes start, so that their budget goes to the classes."""

import hashlib
import json
import re
from pathlib import Path

import torch

REGISTRATION = """
from d2_seesaw.data import register_longtail_instances

for _split in ("train", "val"):
    _name = f"without_classes_{{_split}}"
    _json_file = {folder!r} + f"/merged_{{_split}}.json"
    register_longtail_instances(_name, json_file=_json_file, image_root={image_root!r})
    _cfg.dataloader["test" if _split == "val" else _split].dataset.names = _name
"""
"""Lines of the config of the detector, whose only category is an object of any class."""

_OF_CLASSES = ("cls_score", "cls_loss")
_COPIED = ("box_predictor.bbox_pred.", "mask_head.predictor.")
_HEAD = re.compile(r"(roi_heads\.(?:box_head|box_predictor|mask_head))\.(.+)")


def merge_categories(annotations: Path, target: Path) -> int:
    """Write annotations whose categories are merged into one; return the number of categories."""
    content = json.loads(annotations.read_text())
    number = len(content["categories"])
    category = {**content["categories"][0], "id": 1, "name": "object", "synset": "object.n.01"}
    for image in content["images"]:
        image["neg_category_ids"] = image["not_exhaustive_category_ids"] = []
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    target.write_text(json.dumps({**content, "categories": [category]}))
    return number


def write_start(checkpoint: Path, num_classes: int, target: Path) -> None:
    """Write the weights of the detector, with its box and mask outputs copied to every class.

    The classifier is left out, so that it starts at random.
    """
    state = torch.load(checkpoint, weights_only=True)["model"]
    start = {}
    for name, value in state.items():
        if any(part in name for part in _COPIED):
            value = value.repeat(num_classes, *[1] * (value.dim() - 1))
        if not any(part in name for part in _OF_CLASSES):
            start[name] = value
    torch.save({"model": start}, target)


def write_cascade_start(start: Path, stages: int, target: Path) -> None:
    """Write the weights of a start with its box and mask heads copied to every stage of a cascade.

    The mask head also stays as it is, for a cascade with one: no kind of cascade starts with less
    than another. The box outputs are those of one class, because a cascade has one for all classes.
    """
    cascade = {}
    for name, value in torch.load(start, weights_only=True)["model"].items():
        head = _HEAD.fullmatch(name)
        if head is None or ".mask_head." in name:
            cascade[name] = value
        if head is not None:
            copied = value[:4].clone() if "bbox_pred" in name else value
            for stage in range(stages):
                cascade[f"{head[1]}.{stage}.{head[2]}"] = copied
    torch.save({"model": cascade}, target)


def start_hash(weights: Path) -> str:
    """Return 16 hexadecimal digits that identify the weights of a start."""
    digest = hashlib.sha256()
    for name, value in sorted(torch.load(weights, weights_only=True)["model"].items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]
