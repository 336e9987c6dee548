"""Names and shapes of the tensors of mmdet's Seesaw models, as mmdet 3.3.0 lists them."""

import json
import re
from functools import cache
from pathlib import Path

RECORDED = Path("tests/golden/mmdet_3_3_0_state_dicts.json")
RECORDED_CLASSES = 37


@cache
def recorded_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the recorded list of ``mask_rcnn_r50_fpn`` or ``cascade_mask_rcnn_r101_fpn``."""
    return {key: tuple(shape) for key, shape in json.loads(RECORDED.read_text())[name].items()}


def mmdet_shapes(
    *, depth: int, num_classes: int = RECORDED_CLASSES, width: int = 1024, stages: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model of another size.

    A ResNet-50 is a ResNet-101 without the later blocks of its third layer. ``width`` is the number
    of box features; a cascade has 3 ``stages``.
    """
    backbone_shapes = recorded_shapes(
        "mask_rcnn_r50_fpn" if depth == 50 else "cascade_mask_rcnn_r101_fpn"
    )
    head_shapes = recorded_shapes("cascade_mask_rcnn_r101_fpn" if stages else "mask_rcnn_r50_fpn")
    shapes = {k: v for k, v in backbone_shapes.items() if k.startswith("backbone.")}
    shapes |= {k: v for k, v in head_shapes.items() if not k.startswith("backbone.")}
    sizes = {RECORDED_CLASSES + offset: num_classes + offset for offset in (0, 1, 2)} | {
        4 * RECORDED_CLASSES: 4 * num_classes,
        1024: width,
    }
    in_heads = re.compile(r"bbox_head|conv_logits")
    return {
        key: tuple(sizes.get(n, n) for n in shape) if in_heads.search(key) else shape
        for key, shape in shapes.items()
    }
