import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, ROIMasks
from detectron2.structures.masks import polygons_to_bitmask
from torch.nn import functional as F

from d2_seesaw.modeling.roi_heads.mask_scoring import mask_iou_targets, part_inside

M = 28
SIZE = 112


def rois(masks, boxes):
    boxes = torch.as_tensor(boxes, dtype=torch.float32)
    return Instances((SIZE, SIZE), proposal_boxes=Boxes(boxes), gt_masks=masks)


def as_logits(masks, scale=3.0):
    """Convert binary masks to logits ``(B, 1, M, M)``."""
    return scale * (2 * masks.float()[:, None] - 1)


def bits_of(x0, y0, x1, y1):
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def rectangle(x0, y0, x1, y1):
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=float)


def object_as(kind, *corners):
    if kind is BitMasks:
        return BitMasks(bits_of(*corners)[None])
    return PolygonMasks([[rectangle(*corners)]])


every_kind = pytest.mark.parametrize("kind", [BitMasks, PolygonMasks])
SQUARE = (30, 30, 86, 86)


@every_kind
def test_empty_masks_and_masks_beside_their_object_have_target_0(kind):
    image = rois(object_as(kind, 30, 30, 58, 86), [SQUARE])
    mask = torch.zeros(1, M, M)
    assert mask_iou_targets(as_logits(mask), [image]).tolist() == [0.0]
    mask[:, :, M // 2 :] = 1
    assert mask_iou_targets(as_logits(mask), [image]).tolist() == [0.0]


@every_kind
@pytest.mark.parametrize("box", [(0, 0, 20, 20), (-50, -50, -10, -10), (200, 0, 300, 20)])
def test_boxes_beside_their_object_have_target_0(kind, box):
    image = rois(object_as(kind, *SQUARE), [box])
    for bit in (0, 1):
        target = mask_iou_targets(as_logits(torch.full((1, M, M), bit)), [image])
        assert target.tolist() == [0.0]


@pytest.mark.parametrize("nothing", [BitMasks(torch.zeros(1, SIZE, SIZE)), PolygonMasks([[]])])
def test_objects_without_pixels_have_target_0(nothing):
    image = rois(nothing, [SQUARE])
    assert mask_iou_targets(as_logits(torch.ones(1, M, M)), [image]).tolist() == [0.0]
    assert part_inside(nothing, torch.tensor([SQUARE])).tolist() == [0.0]


def blobs(number, size, scale):
    noise = torch.randn(number, 1, size // scale, size // scale)
    return F.interpolate(noise, (size, size), mode="bicubic")[:, 0] > 0


def star(points=9):
    """Return a star-shaped polygon inside the image."""
    angle = np.sort(np.random.uniform(0, 2 * np.pi, points))
    radius = np.random.uniform(8, 30, points)
    center = np.random.uniform(32, SIZE - 32, 2)
    return (center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).reshape(-1)


def pixel_iou(probability, box, mask):
    """Compute the IoU by pasting the mask into the image and counting pixels."""
    pasted = ROIMasks(probability).to_bitmasks(Boxes(box[None]), SIZE, SIZE, 0.5).tensor[0]
    return ((pasted & mask).sum() / (pasted | mask).sum()).item()


def test_target_equals_pixel_iou_for_a_box_of_the_grids_size():
    masks = blobs(24, SIZE, 8)
    corners = torch.randint(0, SIZE - M, (24, 2))
    boxes = torch.cat([corners, corners + M], dim=1).float()
    bits = blobs(24, M, 4)
    images = [rois(BitMasks(m), b) for m, b in zip(masks.split(12), boxes.split(12), strict=True)]
    targets = mask_iou_targets(as_logits(bits), images)
    expected = [
        pixel_iou(bit[None].float(), *each) for bit, *each in zip(bits, boxes, masks, strict=True)
    ]
    torch.testing.assert_close(targets, torch.tensor(expected))
    assert targets.max() - targets.min() > 0.03


@every_kind
def test_target_is_close_to_pixel_iou_for_any_box(kind):
    polygons = [[star(), star()] for _ in range(24)]
    masks = BitMasks.from_polygon_masks(polygons, SIZE, SIZE)
    boxes = masks.get_bounding_boxes().tensor + torch.randn(24, 4) * 6
    guess = masks.crop_and_resize(boxes, M).float().roll(2, dims=2)
    guess = F.avg_pool2d(guess, 5, stride=1, padding=2) * 0.9 + 0.05
    given = masks if kind is BitMasks else PolygonMasks(polygons)
    targets = mask_iou_targets(guess.logit()[:, None], [rois(given, boxes)])
    expected = torch.tensor([pixel_iou(*e) for e in zip(guess[:, None], boxes, masks, strict=True)])
    assert expected.std() > 0.05
    # The discretization error is limited: a cell is up to 3 pixels wide.
    assert (targets - expected).abs().max() < 0.04
    assert (targets - expected).abs().mean() < 0.012


def test_the_part_inside_weights_pixels_by_their_covered_area():
    masks = blobs(20, SIZE, 8)
    boxes = torch.rand(20, 4).sort(dim=1).values[:, [0, 1, 2, 3]] * 160 - 24
    # Boxes on a grid of 1/16 pixel can be compared with exact counts on an upsampled mask.
    boxes = (boxes * 16).round() / 16
    fine = masks.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    expected = []
    for mask, box in zip(fine, (boxes * 16).long().clamp(0, 16 * SIZE), strict=True):
        x0, y0, x1, y1 = box.tolist()
        expected.append(mask[y0:y1, x0:x1].sum() / mask.sum())
    parts = part_inside(BitMasks(masks), boxes)
    torch.testing.assert_close(parts, torch.stack(expected).double(), rtol=0, atol=1e-6)
    assert parts.dtype == torch.float64


def test_polygons_are_rasterized_on_the_whole_image():
    polygons = [[star()], [star(), star(3)], [star() * 1.5 - 20], [rectangle(-5, 3, 9.5, 20)]]
    masks = BitMasks.from_polygon_masks(polygons, 2 * SIZE, 2 * SIZE)
    repeats = [0, 1, 2, 3, 1, 1, 0, 3]
    boxes = masks.get_bounding_boxes().tensor[repeats] + torch.randn(8, 4) * 4
    parts = part_inside(PolygonMasks([polygons[r] for r in repeats]), boxes)
    torch.testing.assert_close(parts, part_inside(masks[torch.tensor(repeats)], boxes))
    assert (parts < 0.95).sum() > 3


@pytest.mark.parametrize("corners", [(-9, 5, -2, 30), (7, 5, 7, 30), (7.3, 5.1, 7.4, 5.2)])
def test_a_polygon_without_pixels_has_part_0_in_every_box(corners):
    polygons = [[rectangle(*corners)]]
    assert not BitMasks.from_polygon_masks(polygons, SIZE, SIZE).tensor.any()
    assert part_inside(PolygonMasks(polygons), torch.tensor([[-20.0, 0, 40, 40]])).tolist() == [0]


def test_an_object_with_many_boxes_is_rasterized_once(monkeypatch):
    drawn = []
    name = "d2_seesaw.modeling.roi_heads.mask_scoring.polygons_to_bitmask"
    monkeypatch.setattr(name, lambda *a: drawn.append(a) or polygons_to_bitmask(*a))
    masks = PolygonMasks([[star()], [star()]])[torch.tensor([0, 1, 1, 0, 1])]
    part_inside(masks, torch.rand(5, 4))
    assert len(drawn) == 2


@every_kind
def test_autocast_changes_nothing(kind):
    masks = object_as(kind, 3, 5, 96, 83)
    boxes = torch.tensor([[10.3, 9.7, 90.1, 99.9]])
    exact = part_inside(masks, boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(part_inside(masks, boxes), exact)


def test_the_threshold_binarizes_the_predicted_mask():
    image = rois(object_as(BitMasks, *SQUARE), [SQUARE])
    logits = torch.full((1, 1, M, M), 0.3)
    assert mask_iou_targets(logits, [image]).item() == 1
    assert mask_iou_targets(logits, [image], threshold=0.5).item() == 0
    assert mask_iou_targets(logits * 0, [image]).item() == 0


@every_kind
def test_a_perfect_mask_has_the_part_of_the_object_inside_its_box_as_target(kind):
    logits = as_logits(torch.ones(3, M, M)).requires_grad_()
    one = rois(object_as(kind, *SQUARE), [(30, 30, 58, 86)])
    none = Instances((SIZE, SIZE), proposal_boxes=Boxes(torch.zeros(0, 4)))
    two = rois(object_as(kind, *SQUARE)[[0, 0]], [SQUARE, (30, 30, 86, 44)])
    targets = mask_iou_targets(logits.half(), [one, none, two])
    torch.testing.assert_close(targets, torch.tensor([0.5, 1.0, 0.25]))
    assert not targets.requires_grad


def test_no_rois_have_no_targets():
    none = Instances((SIZE, SIZE), proposal_boxes=Boxes(torch.zeros(0, 4)))
    targets = mask_iou_targets(torch.zeros(0, 1, M, M, dtype=torch.half), [none, none])
    assert (targets.shape, targets.dtype) == ((0,), torch.float32)


def test_unsupported_mask_types_are_reported():
    with pytest.raises(ValueError, match="BitMasks or PolygonMasks, got ROIMasks"):
        part_inside(ROIMasks(torch.zeros(1, M, M)), torch.zeros(1, 4))
