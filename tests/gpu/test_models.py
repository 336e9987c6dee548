"""Tests of mask heads, poolers, models, mask encoding and a training step on the GPU."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine.hooks import CallbackHook
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import Tensor, nn

from d2_seesaw.engine import Trainer, load_config
from d2_seesaw.evaluation import encode_masks
from d2_seesaw.inference import MeanOverSharedProposals, MultiViewInference, with_roi_masks
from d2_seesaw.layers import mask_predictor, normed_mask_predictor
from d2_seesaw.modeling.roi_heads import CarafeMaskHead, MaskHeadWithPredictor, OffsetROIPooler
from tests.gpu.agreement import assert_agrees

pytestmark = pytest.mark.gpu

CLASSES = 80
SIZE = (96, 128)


def boxes_in(size: tuple[int, int], number: int) -> Tensor:
    """Draw boxes inside of an image."""
    height, width = size
    corners = torch.rand(number, 2) * torch.tensor([width * 0.6, height * 0.6])
    extents = 8 + torch.rand(number, 2) * torch.tensor([width * 0.3, height * 0.3])
    return torch.cat([corners, corners + extents], dim=1)


def blobs(number: int, size: tuple[int, int]) -> Tensor:
    """Draw ``(N, H, W)`` smooth noise."""
    noise = torch.randn(number, 1, 4, 4)
    return nn.functional.interpolate(noise, size, mode="bicubic")[:, 0]


# --- mask heads and poolers ---


class MaskLoss(nn.Module):
    """Loss of a mask head for RoIs of one image."""

    def __init__(self, head: MaskHeadWithPredictor) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, boxes: Tensor, classes: Tensor, masks: Tensor) -> dict:
        rois = Instances(
            SIZE,
            proposal_boxes=Boxes(boxes.detach()),
            gt_classes=classes,
            gt_masks=BitMasks(masks),
        )
        with EventStorage():
            # Boxes are constants. Adding them times zero gives them a gradient to compare.
            loss = self.head(x, [rois])["loss_mask"]
        return {"loss": loss + 0 * boxes.sum()}


@pytest.mark.parametrize("predictor", [mask_predictor(std=0.1), normed_mask_predictor()])
@pytest.mark.parametrize("new_head", [MaskHeadWithPredictor, CarafeMaskHead])
def test_mask_heads(new_head, predictor, device):
    shape = ShapeSpec(channels=16, height=14, width=14)
    head = new_head(shape, predictor=predictor, num_classes=CLASSES, conv_dims=[16, 16])
    inputs = (
        torch.randn(10, 16, 14, 14),
        boxes_in(SIZE, 10),
        torch.randint(CLASSES, (10,)),
        blobs(10, SIZE) > 0,  # smooth edges, so few target pixels are near the threshold
    )
    assert_agrees(MaskLoss(head), *inputs, device=device)


@pytest.mark.parametrize("offsets", ["none", "boxes", "bins"])
def test_pooling_from_several_levels(offsets, device):
    pooler = OffsetROIPooler(5, [1 / 4, 1 / 8], canonical_box_size=32, canonical_level=2)
    shape = {"none": (), "boxes": (24, 2), "bins": (24, 2, 5, 5)}[offsets]
    corners = boxes_in(SIZE, 24)

    def pool(fine: Tensor, coarse: Tensor, *offsets: Tensor) -> Tensor:
        boxes = [Boxes(part) for part in corners.to(fine.device).split(12)]
        return pooler([fine, coarse], boxes, *offsets)

    inputs = [torch.randn(2, 6, 24, 32), torch.randn(2, 6, 12, 16)]
    inputs += [4 * torch.randn(shape)] if shape else []
    assert_agrees(pool, *inputs, device=device)


# --- inference ---


def mask_rcnn() -> nn.Module:
    """Build the quickstart's model with random weights whose scores and boxes differ."""
    cfg = load_config("configs/quickstart/seesaw.py").model
    cfg.roi_heads.box_predictor.test_topk_per_image = 15
    model = instantiate(cfg)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.normal_(std=0.3)
        model.roi_heads.box_predictor.bbox_pred.weight.normal_(std=0.05)
        for parameter in model.proposal_generator.parameters():
            parameter.mul_(5)
    return model.eval()


@pytest.fixture
def picture(tmp_path: Path) -> dict:
    """Write an image of random blobs; return its record in Detectron2's format."""
    noise = torch.rand(1, 3, 18, 25)
    smooth = nn.functional.interpolate(noise, (150, 203), mode="bicubic").clamp(0, 1)
    pixels = (smooth[0] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return {"file_name": str(tmp_path / "picture.png"), "image": image, "height": 150, "width": 203}


def assert_same_detections(found: Instances, expected: Instances) -> None:
    """Check that detections match one to one; their order may differ where scores are equal."""
    assert len(found) == len(expected) >= 5
    overlap = pairwise_iou(expected.pred_boxes, found.pred_boxes)
    same_class = expected.pred_classes[:, None] == found.pred_classes
    best, match = (overlap * same_class).max(dim=1)
    assert best.min() > 0.99
    assert len(match.unique()) == len(match)
    assert (found.scores[match] - expected.scores).abs().max() < 1e-3
    if expected.has("pred_masks"):
        differing = found.pred_masks[match] != expected.pred_masks
        assert differing.float().mean() < 1e-3


VIEWS = {
    "one view": None,
    "union": {"scales": [(96, 160), (144, 240)]},
    "mean": {"scales": [(96, 160), (144, 240)], "merge": MeanOverSharedProposals()},
    "two views at once": {"scales": [(144, 240)], "batch_size": 2},
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS.keys())
@torch.no_grad()
def test_detections_of_a_model_with_and_without_augmentation(views, picture, device):
    model = mask_rcnn()
    on_gpu = copy.deepcopy(model).to(device)
    if views is not None:
        model, on_gpu = (MultiViewInference(m, **views) for m in (model, on_gpu))
    (expected,), (found,) = model([picture]), on_gpu([picture])
    assert found["instances"].scores.device.type == device.type
    assert_same_detections(found["instances"].to("cpu"), expected["instances"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_augmentation_in_mixed_precision(dtype, picture, device):
    augmented = MultiViewInference(mask_rcnn().to(device), scales=[(144, 240)], amp_dtype=dtype)
    found = augmented([picture])[0]["instances"]
    assert len(found) >= 5
    assert found.pred_boxes.tensor.dtype == torch.float32
    assert found.scores.isfinite().all()


# --- masks to RLE ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_masks_on_the_gpu_have_the_bytes_of_those_on_the_cpu(dtype, device):
    masks = (3 * blobs(60, (28, 28)) + 1).sigmoid()[:, None].to(dtype)
    boxes = boxes_in((240, 320), 60)
    on_cpu = encode_masks(masks, boxes, (240, 320))
    assert encode_masks(masks.to(device), boxes.to(device), (240, 320)) == on_cpu
    assert encode_masks(masks.to(device), Boxes(boxes.to(device)), (240, 320)) == on_cpu
    for threshold in (0.5, 0.3):  # windows of all sizes, and pixels that rounding decides
        given = masks.round(decimals=1), boxes, (240, 320)
        on_cpu = encode_masks(*given, threshold=threshold)
        moved = (given[0].to(device), given[1].to(device), given[2])
        assert encode_masks(*moved, threshold=threshold, on_device=True) == on_cpu


@torch.no_grad()
def test_unpasted_masks(picture, device):
    found = with_roi_masks(mask_rcnn().to(device))([picture])[0]["instances"]
    arguments = found.pred_boxes, found.image_size
    on_cpu = encode_masks(found.pred_masks.tensor.cpu(), *(arguments[0].to("cpu"), arguments[1]))
    for on_device in (False, True):
        rles = encode_masks(found.pred_masks.tensor, *arguments, on_device=on_device)
        assert rles == on_cpu


# --- training ---


class Squares(nn.Module):
    """Model with one weight, whose loss is scaled by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        return {"loss": batch[0]["factor"] * self.weight.square().sum()}


def test_a_step_with_an_overflowing_float16_gradient_is_skipped(device):
    model = Squares().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [[{"factor": 1e36}], [{"factor": 1.0}]]  # times the loss scale: infinite, and 65536
    trainer = Trainer(model, batches, optimizer, amp_dtype="float16")
    scale = trainer.grad_scaler.get_scale()
    after = []

    def note(trainer):
        after.append((model.weight.item(), trainer.grad_scaler.get_scale()))

    trainer.register_hooks([CallbackHook(after_step=note)])
    trainer.train(0, 2)
    assert after == [(1, scale / 2), (pytest.approx(0.8), scale / 2)]
