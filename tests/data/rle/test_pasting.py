import functools
import itertools
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers.mask_ops import _do_paste_mask, paste_masks_in_image
from detectron2.structures import Boxes
from pycocotools import mask as coco_mask

from d2_seesaw.data.rle import encode_masks, pasting
from tests.support.operators import OperatorLog

SIZE = (67, 93)


@pytest.fixture(params=["NumPy", "numba", "device"], autouse=True)
def _functions(request, monkeypatch):
    compiled = None
    if request.param == "device":
        on_device = functools.partial(pasting.encode_masks, on_device=True)
        monkeypatch.setitem(globals(), "encode_masks", on_device)
        monkeypatch.setattr(pasting, "_PIXELS_AT_ONCE", 5 * SIZE[0] * SIZE[1])
    if request.param == "numba":
        compiled = pytest.importorskip("d2_seesaw.data.rle.compiled", exc_type=ImportError)
        monkeypatch.setattr(pasting, "_PIXELS_AT_ONCE", 5 * SIZE[0] * SIZE[1])
    monkeypatch.setattr(pasting, "compiled_functions", lambda: compiled)


def pasted_and_encoded(masks, boxes, size, threshold=0.5):
    """Encode as Detectron2 and pycocotools do, with a full image per mask."""
    pictures = paste_masks_in_image(masks.reshape(-1, *masks.shape[-2:]), boxes, size, threshold)
    return [coco_mask.encode(np.asfortranarray(p.numpy(), dtype=np.uint8)) for p in pictures]


def blobs(n, M):
    noise = F.interpolate(torch.randn(n, 1, 4, 4), (M, M), mode="bicubic")
    return noise.mul(5).sigmoid()[:, 0]


def plateaus(n, M):
    """Draw values at the threshold of 0.5 or one rounding error from it."""
    values = torch.tensor([0.5, 0.5, 0.5, 0.49999997, 0.50000006, 1.0])
    return values[torch.randint(6, (n, M, M))]


MASKS = {
    "noise": lambda n, M: torch.rand(n, M, M),
    "blobs": blobs,
    "binary": lambda n, M: torch.rand(n, M, M).gt(0.5).float(),
    "plateaus": plateaus,
    "halves": lambda n, M: torch.full((n, M, M), 0.5),
    "ones": lambda n, M: torch.ones(n, M, M),
    "zeros": lambda n, M: torch.zeros(n, M, M),
}


def anywhere(n):
    """Draw boxes of all sizes, inside or across the border, with a pixel in the image."""
    H, W = SIZE
    edge = torch.tensor([W, H])
    center, half = torch.rand(n, 2) * edge, torch.rand(n, 2) ** 3 * edge
    return torch.cat([center - half, center + half], 1)


BOXES = {
    "anywhere": anywhere,
    "clipped": lambda n: torch.minimum(
        anywhere(n).clamp(min=0), torch.tensor([SIZE[1], SIZE[0]]).repeat(2)
    ),
    "whole pixels": lambda n: anywhere(n).round(),
    "half pixels": lambda n: anywhere(n).round() + 0.5,
    "full height": lambda n: (
        anywhere(n) * torch.tensor([1, 0, 1, 0]) + torch.tensor([0, 0, 0, SIZE[0]])
    ),
    "the image": lambda n: torch.tensor([[0.0, 0, SIZE[1], SIZE[0]]]).repeat(n, 1),
    "huge": lambda n: anywhere(n) + torch.tensor([-3e4, -2e3, 3e4, 2e3]),
    "tiny": lambda n: (
        anywhere(n)[:, [0, 1, 0, 1]].clamp(0, 60)
        + torch.rand(n, 4) * torch.tensor([0, 0, 1e-3, 1e-3])
    ),
    "no area": lambda n: anywhere(n)[:, [0, 1, 0, 3]].clamp(0, 60).round() + 0.5,
    "turned round": lambda n: (
        anywhere(n)[:, [0, 1, 0, 1]].clamp(2, 60) + torch.rand(n, 4) * torch.tensor([0, 0, -1, -1])
    ),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("place", BOXES)
@pytest.mark.parametrize("M", [14, 28, 56])
def test_equals_detectron2s_paste_and_pycocotools_encode(kind, place, M):
    masks, boxes = MASKS[kind](8, M), BOXES[place](8)
    # 34 masks cross the border between two batches.
    masks, boxes = masks.repeat(5, 1, 1)[:34], torch.cat([boxes, BOXES[place](26)])
    assert encode_masks(masks, boxes, SIZE) == pasted_and_encoded(masks, boxes, SIZE)


@pytest.mark.parametrize("threshold", [0.0, 1e-6, 0.3, 0.9, 1.0, 2.0])
def test_equals_detectron2_at_any_threshold(threshold):
    for kind, place in itertools.product(("blobs", "binary", "noise"), ("anywhere", "no area")):
        masks, boxes = MASKS[kind](12, 28), BOXES[place](12)
        ours = encode_masks(masks, boxes, SIZE, threshold=threshold)
        assert ours == pasted_and_encoded(masks, boxes, SIZE, threshold)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e6])
def test_equals_detectron2_where_probabilities_are_not_finite(value):
    masks, boxes = blobs(12, 28), anywhere(12)
    masks[:6, 10, 11:14] = value
    assert encode_masks(masks, boxes, SIZE) == pasted_and_encoded(masks, boxes, SIZE)


def test_equals_detectron2_where_values_far_above_one_are_rounded_coarsely():
    masks, boxes = 1000 * plateaus(64, 28), anywhere(64)
    ours = encode_masks(masks, boxes, SIZE, threshold=500)
    assert ours == pasted_and_encoded(masks, boxes, SIZE, 500)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_equals_detectron2_on_small_images(size):
    edges = torch.tensor(size).flip(0).repeat(2)
    masks, boxes = blobs(20, 28), torch.rand(20, 4) * edges + torch.tensor([-0.5, -0.5, 0.5, 0.5])
    boxes[:, 2:] = torch.maximum(boxes[:, :2], boxes[:, 2:])
    masks[:5] = 1
    assert encode_masks(masks, boxes, size) == pasted_and_encoded(masks, boxes, size)


def test_boxes_without_a_pixel_in_the_image_have_empty_masks():
    H, W = SIZE
    outside = torch.tensor(
        [[W + 5, 5, W + 30, 20], [-40, 5, -9, 20], [5, H + 9, 20, H + 20], [5.0, -99, 20, -60]]
    )
    masks = torch.ones(4, 28, 28)
    with pytest.raises(RuntimeError):  # Detectron2 refuses empty windows
        pasted_and_encoded(masks, outside, SIZE)
    whole, _ = _do_paste_mask(masks[:, None], outside, H, W, skip_empty=False)
    assert not (whole >= 0.5).any()
    inside = torch.tensor([[3.0, 4, 50, 60]])
    rles = encode_masks(torch.ones(5, 28, 28), torch.cat([outside, inside]), SIZE)
    assert [coco_mask.area(rle) > 0 for rle in rles] == [False] * 4 + [True]
    assert rles[:4] == [coco_mask.encode(np.zeros(SIZE, np.uint8, order="F"))] * 4


@pytest.mark.parametrize("shape", [(0, 28, 28), (0, 1, 28, 28)])
def test_no_masks_have_no_encodings(shape):
    assert encode_masks(torch.zeros(shape), torch.zeros(0, 4), SIZE) == []


def test_shape_dtype_and_layout_of_the_arguments_do_not_matter():
    masks, boxes = blobs(5, 28).half(), anywhere(5)
    expected = pasted_and_encoded(masks.float(), boxes, SIZE)
    assert encode_masks(masks[:, None], Boxes(boxes), torch.Size(SIZE)) == expected
    assert encode_masks(masks.double().requires_grad_(), boxes, SIZE) == expected
    assert encode_masks(masks.float().mT.contiguous().mT, boxes, SIZE) == expected


def test_arguments_are_not_modified():
    masks, boxes = blobs(5, 28), anywhere(5)
    masks[0, 3, 3] = torch.nan
    before = masks.clone(), boxes.clone()
    encode_masks(masks, boxes, SIZE)
    torch.testing.assert_close((masks, boxes), before, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("masks", "boxes", "options", "message"),
    [
        ((3, 28, 14), (3, 4), {}, r"masks must be .*got \(3, 28, 14\)"),
        ((3, 2, 28, 28), (3, 4), {}, r"masks must be .*got \(3, 2, 28, 28\)"),
        ((3, 28, 28), (2, 4), {}, r"shape \(3, 4\), got \(2, 4\)"),
        ((3, 28, 28), (3, 4), {"threshold": -1}, "not be negative, got -1"),
        ((3, 28, 28), (3, 4), {"threshold": float("nan")}, "not be negative, got nan"),
    ],
)
def test_wrong_arguments_are_refused(masks, boxes, options, message):
    with pytest.raises(ValueError, match=message):
        encode_masks(torch.rand(masks), torch.rand(boxes), SIZE, **options)


def test_boxes_that_are_not_finite_are_refused():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, torch.nan, 1, 1]])
    with pytest.raises(ValueError, match=r"must be finite, got .*nan"):
        encode_masks(torch.rand(2, 28, 28), boxes, SIZE)


def test_memory_is_limited_to_the_windows():
    size, n = (800, 1333), 300
    corner = torch.rand(n, 2) * torch.tensor([1250, 720])
    boxes = torch.cat([corner, corner + 60], 1)
    masks = blobs(n, 28)
    tracemalloc.start()
    try:
        with OperatorLog() as log:
            encode_masks(masks, boxes, size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.largest <= masks.nbytes
    assert peak < size[0] * size[1] * n / 50, peak
