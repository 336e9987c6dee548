"""Small models: real ones with random weights, and an oracle."""

import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from d2_seesaw.engine import load_config


def mask_rcnn(**heads_changes):
    """Build the quickstart model with fewer detections."""
    cfg = load_config("configs/quickstart/seesaw.py").model
    cfg.roi_heads.box_predictor.test_topk_per_image = 15
    cfg.roi_heads.update(heads_changes)
    return _spread(instantiate(cfg))


def mask_scoring_rcnn():
    """Build the quickstart model with mask scores, which differ between masks."""
    head = LazyConfig.load("configs/common/heads/mask_iou.py", "scored_norm_mask_head")
    head.mask_head.update(conv_dims=[64, 64])
    head.mask_head.input_shape.channels = 64
    head.iou_head.update(conv_dims=[16, 16], fc_dims=[32])
    model = mask_rcnn(mask_head=head)
    nn.init.normal_(model.roi_heads.mask_head.iou_head.fc_mask_iou.weight, std=1.0)
    return model


def box_rcnn():
    return mask_rcnn(mask_in_features=None, mask_pooler=None, mask_head=None)


def cascade_rcnn():
    """Build Detectron2's cascade on the quickstart backbone."""
    cfg = load_config("configs/quickstart/seesaw.py").model
    heads = cfg.roi_heads
    for key in ("box_head", "box_predictor", "proposal_matcher"):
        heads.pop(key)
    heads._target_ = CascadeROIHeads
    heads.box_heads = [
        L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels=64, height=7, width=7), conv_dims=[], fc_dims=[64]
        )
        for _ in range(3)
    ]
    heads.box_predictors = [
        L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=64),
            num_classes=20,
            cls_agnostic_bbox_reg=True,
            box2box_transform=L(Box2BoxTransform)(weights=[w, w, w / 2, w / 2]),
            test_score_thresh=0.02,
            test_topk_per_image=15,
        )
        for w in (10, 20, 30)
    ]
    heads.proposal_matchers = [
        L(Matcher)(thresholds=[t], labels=[0, 1], allow_low_quality_matches=False)
        for t in (0.5, 0.6, 0.7)
    ]
    return _spread(instantiate(cfg))


def yacs_rcnn():
    """Build Detectron2's C4 model from yacs."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32, 48]]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1e-3
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.TEST.DETECTIONS_PER_IMAGE = 15
    return _spread(build_model(cfg), weight=1e-3)


def _spread(model, weight=0.3):
    """Change the initial weights so that scores and boxes differ."""
    predictors = model.roi_heads.box_predictor
    with torch.no_grad():
        for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
            predictor.cls_score.weight.normal_(std=weight)
            predictor.bbox_pred.weight.normal_(std=weight / 6)
        for parameter in model.proposal_generator.parameters():
            parameter.mul_(5)
    return model.eval()


def picture(path, height=150, width=203):
    """Write an image of random blobs and return its dict in Detectron2's format."""
    noise = torch.rand(1, 3, height // 8, width // 8)
    smooth = nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)
    Image.fromarray((smooth[0] * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return {"file_name": str(path), "height": height, "width": width, "image_id": 7}


def mapped(record, short=160, limit=260, image_format="RGB"):
    """Apply the test mapper."""
    resize = T.ResizeShortestEdge(short, limit)
    return DatasetMapper(False, augmentations=[resize], image_format=image_format)(record)


TRUE_BOXES = torch.tensor([[31.0, 20.0, 150.0, 200.0], [200.5, 50.25, 460.0, 330.0]])
TRUE_CLASSES = torch.tensor([3, 1])
TRUE_SIZE = (360, 480)


def oracle_image():
    """Return an image with a bright left half, from which the oracle detects mirrored views."""
    image = torch.zeros(3, *TRUE_SIZE, dtype=torch.uint8)
    image[:, :, : TRUE_SIZE[1] // 2] = 255
    return {"image": image, "height": TRUE_SIZE[0], "width": TRUE_SIZE[1]}


def true_masks():
    """Return ``(2, H, W)`` masks with an off-center ellipse in each box."""
    height, width = TRUE_SIZE
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    masks = []
    for x0, y0, x1, y1 in TRUE_BOXES:
        masks.append(radius((x - x0) / (x1 - x0), (y - y0) / (y1 - y0)) <= 1)
    return torch.stack(masks)


def radius(u, v):
    """Compute the radius of points in units of the box; at most 1 inside the object."""
    return (((u - 0.4) / 0.3) ** 2 + ((v - 0.35) / 0.25) ** 2).sqrt()


class Oracle(GeneralizedRCNN):
    """Model that returns the true boxes of any view and the true mask of any box."""

    def __init__(self, **scores):
        super().__init__(
            backbone=_OracleBackbone(),
            proposal_generator=_OracleProposals(),
            roi_heads=_OracleHeads(**scores),
            pixel_mean=[127.5] * 3,
            pixel_std=[127.5] * 3,
            input_format="RGB",
        )
        self.eval()


class _OracleBackbone(Backbone):
    def forward(self, images):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"image": images}

    def output_shape(self):
        return {"image": ShapeSpec(channels=3, stride=1)}


def is_mirrored(image, size):
    image = image[0, : size[0], : size[1]]
    return bool(image[:, : size[1] // 2].mean() < image[:, size[1] // 2 :].mean())


def in_view(boxes, image, size):
    """Convert boxes of the true image to the view that ``image`` shows."""
    scale = torch.tensor([size[1] / TRUE_SIZE[1], size[0] / TRUE_SIZE[0]]).repeat(2)
    x0, y0, x1, y1 = (boxes * scale).unbind(1)
    if is_mirrored(image, size):
        x0, x1 = size[1] - x1, size[1] - x0
    return torch.stack([x0, y0, x1, y1], 1)


class _OracleProposals(nn.Module):
    def __init__(self):
        super().__init__()
        self.nms_thresh = 0.7
        self.post_nms_topk = {False: 10}

    def forward(self, images, features, targets=None):
        found = []
        for image, size in zip(features["image"], images.image_sizes, strict=True):
            boxes = Boxes(in_view(TRUE_BOXES + torch.tensor([4.0, -4, 4, -4]), image, size))
            found.append(
                Instances(size, proposal_boxes=boxes, objectness_logits=torch.tensor([1.0, 2.0]))
            )
        return found, {}


class _OracleHeads(nn.Module):
    def __init__(self, scores=(0.9, 0.8)):
        super().__init__()
        self.mask_on = True
        self.scores = torch.tensor(scores)
        self.box_predictor = nn.Module()
        self.box_predictor.test_score_thresh = 0.05
        self.box_predictor.test_nms_thresh = 0.5
        self.box_predictor.test_topk_per_image = 100

    def forward(self, images, features, proposals, targets=None):
        found = []
        for image, size in zip(features["image"], images.image_sizes, strict=True):
            boxes = Boxes(in_view(TRUE_BOXES, image, size))
            each = Instances(size, pred_boxes=boxes, scores=self.scores, pred_classes=TRUE_CLASSES)
            found.append(each)
        return self.forward_with_given_boxes(features, found) if self.mask_on else found, {}

    def box_predictions(self, features, proposals):
        boxes, probabilities = [], []
        for image, given in zip(features["image"], proposals, strict=True):
            centers = given.proposal_boxes.get_centers()
            true = in_view(TRUE_BOXES, image, given.image_size)
            nearest = torch.cdist(centers, Boxes(true).get_centers()).argmin(1)
            scores = torch.zeros(len(given), 6)
            scores[torch.arange(len(given)), TRUE_CLASSES[nearest]] = self.scores[nearest]
            boxes.append(true[nearest])
            probabilities.append(scores)
        return boxes, probabilities

    def forward_with_given_boxes(self, features, instances):
        for image, given in zip(features["image"], instances, strict=True):
            true = in_view(TRUE_BOXES, image, given.image_size)
            nearest = torch.cdist(given.pred_boxes.get_centers(), Boxes(true).get_centers()).argmin(
                1
            )
            center = (torch.arange(28) + 0.5) / 28
            x0, y0, x1, y1 = given.pred_boxes.tensor[:, :, None].unbind(1)
            u0, v0, u1, v1 = true[nearest][:, :, None].unbind(1)
            u = (x0 + (x1 - x0) * center - u0) / (u1 - u0)
            v = (y0 + (y1 - y0) * center - v0) / (v1 - v0)
            if is_mirrored(image, given.image_size):
                u = 1 - u
            # Nearly linear across the edge, so that interpolation finds it.
            soft = 0.5 + 1.5 * (1 - radius(u[:, None, :], v[:, :, None]))
            given.pred_masks = soft.clamp(0, 1)[:, None]
            given.mask_scores = given.scores * given.image_size[0]
        return instances


def as_numpy(image):
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
