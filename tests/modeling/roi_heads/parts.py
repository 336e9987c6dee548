"""Small ROI heads and their inputs: two feature levels, few classes, images of 64 x 64."""

import copy

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import BitMasks, Boxes, ImageList, Instances

from d2_seesaw.layers import linear_classifier, mask_predictor, normed_linear_classifier
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads import LossDrivenOutputLayers, MaskHeadWithPredictor

C = 5
SIZE = 64
CHANNELS = 8
WIDTH = 16
STDS = ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
IOUS = (0.5, 0.6, 0.7)
LEVELS = ("p2", "p3")
MMDET = {"resample": True, "stage_loss_weights": [1, 0.5, 0.25]}


def pooler(output_size):
    return ROIPooler(
        output_size=output_size, scales=(1 / 4, 1 / 8), sampling_ratio=0, pooler_type="ROIAlignV2"
    )


def box_head():
    return FastRCNNConvFCHead(
        ShapeSpec(channels=CHANNELS, height=7, width=7), conv_dims=[], fc_dims=[WIDTH]
    )


def transform(stage):
    xy, wh = STDS[stage]
    return Box2BoxTransform((1 / xy, 1 / xy, 1 / wh, 1 / wh))


def box_predictor(stage=0, *, seesaw=True, agnostic=True, **options):
    return LossDrivenOutputLayers(
        ShapeSpec(channels=WIDTH),
        cls_score=normed_linear_classifier() if seesaw else linear_classifier(std=1.0),
        cls_loss=SeesawLoss(C) if seesaw else SoftmaxLoss(C),
        box2box_transform=transform(stage),
        cls_agnostic_bbox_reg=agnostic,
        test_score_thresh=options.pop("test_score_thresh", 0.1),
        **options,
    )


def mask_head(**options):
    return MaskHeadWithPredictor(
        ShapeSpec(channels=CHANNELS, width=14, height=14),
        num_classes=C,
        conv_dims=[CHANNELS, CHANNELS],
        predictor=mask_predictor(std=0.1),
        **options,
    )


def matchers():
    return [Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou in IOUS]


def cascade_options(*, masks="one", seesaw=True, agnostic=True, **options):
    """Return the arguments of cascade heads; ``masks`` is ``"none"``, ``"one"`` or ``"three"``."""
    heads = {"none": None, "one": mask_head}[masks] if masks != "three" else None
    parts = {
        "num_classes": C,
        "batch_size_per_image": 24,
        "positive_fraction": 0.5,
        "proposal_matchers": matchers(),
        "box_in_features": list(LEVELS),
        "box_pooler": pooler(7),
        "box_heads": [box_head() for _ in range(3)],
        "box_predictors": [box_predictor(k, seesaw=seesaw, agnostic=agnostic) for k in range(3)],
    }
    if masks != "none":
        parts |= {
            "mask_in_features": list(LEVELS),
            "mask_pooler": pooler(14),
            "mask_head": heads() if heads else [mask_head() for _ in range(3)],
        }
    return parts | options


def features(num_images=2, **extra):
    maps = {
        name: torch.randn(num_images, CHANNELS, SIZE // stride, SIZE // stride, requires_grad=True)
        for name, stride in zip(LEVELS, (4, 8), strict=True)
    }
    return maps | extra


def images(num_images=2, **fields):
    padded = ImageList(torch.zeros(num_images, 3, SIZE, SIZE), [(SIZE, SIZE)] * num_images)
    for name, value in fields.items():
        setattr(padded, name, value)
    return padded


def boxes(number):
    corner = torch.rand(number, 2) * 36
    return torch.cat([corner, corner + 8 + torch.rand(number, 2) * 18], dim=1)


def target(labels):
    """Return objects of the given classes with box-shaped masks; without masks if empty."""
    objects = Instances((SIZE, SIZE))
    objects.gt_boxes = Boxes(boxes(len(labels)))
    objects.gt_classes = torch.tensor(labels, dtype=torch.int64)
    if labels:
        masks = torch.zeros(len(labels), SIZE, SIZE, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, objects.gt_boxes.tensor.long(), strict=True):
            mask[y0:y1, x0:x1] = True
        objects.gt_masks = BitMasks(masks)
    return objects


def positives(*labels_of_images):
    """Return RoIs that equal the boxes of their objects."""
    images = [target(list(labels)) for labels in labels_of_images]
    for image in images:
        image.proposal_boxes = image.gt_boxes
    return images


def proposals_for(objects, number=40):
    """Draw random proposals, half of them near an object."""
    near = objects.gt_boxes.tensor.repeat(number, 1)[: number // 2 if len(objects) else 0]
    near = near + torch.randn_like(near) * 1.5
    proposals = Instances((SIZE, SIZE))
    proposals.proposal_boxes = Boxes(torch.cat([near, boxes(number - len(near))]))
    proposals.proposal_boxes.clip((SIZE, SIZE))
    proposals.objectness_logits = torch.zeros(number)
    return proposals


def no_proposals():
    nothing = Instances((SIZE, SIZE))
    nothing.proposal_boxes = Boxes(torch.zeros(0, 4))
    nothing.objectness_logits = torch.zeros(0)
    return nothing


def batch(labels=((0, 2, 2), (4,))):
    targets = [target(list(image_labels)) for image_labels in labels]
    return features(len(labels)), [proposals_for(t) for t in targets], targets


def losses_of(heads, batch, **image_fields):
    """Return the losses of a batch, with the same RoIs sampled in each call."""
    torch.manual_seed(0)
    features, proposals, targets = batch
    given = images(len(targets), **image_fields)
    _, losses = heads(given, features, copy.deepcopy(proposals), targets)
    return losses
