import pytest
import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torchvision.ops import roi_align

from d2_seesaw.modeling.roi_heads import OffsetROIPooler
from tests.modeling.roi_heads import parts, tsd_parts


@pytest.fixture
def maps():
    return [m.detach().requires_grad_() for m in parts.features(3).values()]


@pytest.fixture
def boxes():
    """Of three images, one without any; small and large ones in turn."""
    lists = [torch.rand(6, 4) * 20, torch.zeros(0, 4), torch.rand(4, 4) * 20]
    for of_image in lists:
        of_image[:, 2:] += of_image[:, :2] + 4
        of_image[::2, 2:] += 30
    return [Boxes(of_image) for of_image in lists]


def detectron2s():
    return ROIPooler(7, [1 / 4, 1 / 8], 2, "ROIAlignV2", canonical_box_size=64, canonical_level=4)


@pytest.mark.parametrize("offsets", [None, torch.zeros(10, 2), torch.zeros(10, 2, 7, 7)])
def test_in_place_it_is_detectron2s(maps, boxes, offsets):
    pooled = tsd_parts.pooler()(maps, boxes, offsets)
    assert set(assign_boxes_to_levels(boxes, 2, 3, 64, 4).tolist()) == {0, 1}
    torch.testing.assert_close(pooled, detectron2s()(maps, boxes), atol=1e-5, rtol=1e-5)


def test_moved_boxes_are_pooled_in_pixels_of_the_image(maps, boxes):
    offsets = torch.randn(10, 2) * 5
    moved = torch.cat([b.tensor for b in boxes]) + offsets.repeat(1, 2)
    moved = [Boxes(b) for b in moved.split([6, 0, 4])]
    pooled = tsd_parts.pooler()(maps, boxes, offsets)
    torch.testing.assert_close(pooled, detectron2s()(maps, moved), atol=1e-4, rtol=1e-4)


def test_the_number_of_samples_with_offsets_is_given(maps, boxes):
    pooler = OffsetROIPooler(3, [1 / 4], offset_sampling_ratio=4)
    pooled = pooler(maps[:1], boxes, torch.zeros(10, 2))
    expected = roi_align(maps[0], [b.tensor for b in boxes], 3, 1 / 4, 4, aligned=True)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("number", [0, 5])
def test_every_level_and_the_offsets_have_a_gradient(maps, number):
    boxes = [Boxes(torch.zeros(0, 4)), Boxes(parts.boxes(number)), Boxes(torch.zeros(0, 4))]
    offsets = torch.zeros(number, 2, requires_grad=True)
    pooled = tsd_parts.pooler()(maps, boxes, offsets)
    assert pooled.shape == (number, parts.CHANNELS, 7, 7)
    gradients = torch.autograd.grad(pooled.square().sum(), [*maps, offsets])
    assert (gradients[-1] != 0).all()


def test_other_poolers_and_oblong_ones_are_refused():
    with pytest.raises(ValueError, match="must be 'ROIAlignV2' with offsets, got 'ROIPool'"):
        OffsetROIPooler(7, [1 / 4], 0, "ROIPool")
    with pytest.raises(ValueError, match=r"one number with offsets, got \(7, 5\)"):
        OffsetROIPooler((7, 5), [1 / 4])
