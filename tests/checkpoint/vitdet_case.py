"""Small versions of the ViTDet recipes, their weights and inputs, as recorded from Detectron2."""

import math
import re

import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, Instances

from tests.checkpoint.mmdet_weights import picture, uniform

C = 37
SQUARE = 160
SMALL = {
    "vit_b": {
        "embed_dim": 32,
        "depth": 4,
        "num_heads": 2,
        "img_size": SQUARE,
        "window_size": 4,
        "window_block_indexes": [0, 2],
        "drop_path_rate": 0.0,
    },
    "swin_b": {
        "embed_dim": 16,
        "depths": [2, 2, 2, 1],
        "num_heads": [1, 2, 2, 4],
        "drop_path_rate": 0.0,
    },
}
# Height and width of the network's input, then of the original image.
IMAGES = {"a": (96, 160, 192, 320), "b": (160, 120, 80, 60)}


def shrink(name, model):
    """Make the model of a recipe small: 37 classes, images of at most 160 pixels, few channels.

    All RoIs and anchors are sampled, and the federated loss keeps the classes of the objects only,
    so that training does not depend on random numbers.
    """
    model.backbone.square_pad = SQUARE
    model.backbone.out_channels = 32
    trunk = model.backbone.net if name == "vit_b" else model.backbone.bottom_up
    trunk.update(SMALL[name])
    model.proposal_generator.update(
        batch_size_per_image=10**6, pre_nms_topk=[200, 200], post_nms_topk=[60, 60]
    )
    model.proposal_generator.head.in_channels = 32
    heads = model.roi_heads
    heads.update(num_classes=C, batch_size_per_image=10**6)
    for head in heads.box_heads:
        shape = L(ShapeSpec)(channels=32, height=7, width=7)
        head.update(input_shape=shape, conv_dims=[32] * 4, fc_dims=[64])
    for predictor in heads.box_predictors:
        predictor.update(input_shape=L(ShapeSpec)(channels=64), test_topk_per_image=50)
        if "use_fed_loss" in predictor:  # Detectron2's
            predictor.update(fed_loss_num_classes=1)
        else:
            predictor.cls_loss.num_sampled = 1
    shape = L(ShapeSpec)(channels=32, width=14, height=14)
    heads.mask_head.update(input_shape=shape, conv_dims=[32] * 5)


# As in mmdet_weights.py.
_SCALES = (
    (r"norm\d?\.weight$|simfp_2\.1\.weight$", 1.0, 0.2, False),
    (r"pos_embed$|rel_pos_[hw]$", 0.0, 0.2, False),
    (r"relative_position_bias_table$", 0.0, 0.5, False),
    (r"cls_score\.bias$", -1.0, 0.2, False),
    (r"objectness_logits\.weight$", 0.0, 0.3, True),
    (r"anchor_deltas\.weight$", 0.0, 0.1, True),
    (r"bbox_pred\.weight$", 0.0, 0.5, True),
    (r"bias$", 0.0, 0.1, False),
    (r"weight$", 0.0, 1.0, True),
)


def weights(state):
    """Return weights with the names and shapes of ``state``, computed by a formula."""
    return {key: _value(key, value) for key, value in state.items()}


def _value(key, given):
    if key.endswith("relative_position_index"):
        return given.clone()
    u = torch.from_numpy(uniform(key, tuple(given.shape)))
    if key.endswith("fed_loss_cls_weights"):
        return ((u + 1) * 1000).floor() + 1
    _, offset, scale, by_fan_in = next(row for row in _SCALES if re.search(row[0], key))
    if by_fan_in:
        scale *= math.sqrt(6 / math.prod(given.shape[1:]))
    return u.mul_(scale).add_(offset)


def image(name):
    """Return the input of an image in inference."""
    height, width, full_height, full_width = IMAGES[name]
    return {
        "image": picture(f"image {name}", height, width),
        "height": full_height,
        "width": full_width,
    }


def training_batch():
    """Return two training images with three objects each, whose masks are their upper halves."""
    batch = []
    for name in IMAGES:
        height, width = IMAGES[name][:2]
        u = torch.from_numpy(uniform(f"objects {name}", (3, 4))).double().add(1).div(2)
        size = torch.tensor([width, height])
        corners = (0.5 * u[:, :2] * size).floor()
        boxes = torch.cat([corners, corners + (16 + 0.3 * u[:, 2:] * size).floor()], dim=1)
        masks = torch.zeros(3, height, width, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1 : (y1 + y2) // 2, x1:x2] = True
        objects = Instances(
            (height, width),
            gt_boxes=Boxes(boxes.float()),
            gt_classes=torch.tensor([3, 17, 3 if name == "a" else 36]),
            gt_masks=BitMasks(masks),
        )
        batch.append(image(name) | {"instances": objects})
    return batch


def parts_of(model):
    """Return the parts whose gradients are compared, by name."""
    heads = model.roi_heads
    parts = {"backbone": model.backbone, "rpn": model.proposal_generator}
    parts |= {f"box head {k}": head for k, head in enumerate(heads.box_head)}
    parts |= {f"box predictor {k}": p for k, p in enumerate(heads.box_predictor)}
    return parts | {"mask head": heads.mask_head}


def gradient_norms(model):
    """Return the norm of the gradient of each part."""
    return {
        name: torch.stack([p.grad.double().norm() for p in part.parameters()]).norm()
        for name, part in parts_of(model).items()
    }
