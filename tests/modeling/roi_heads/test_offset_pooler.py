import pytest
import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import roi_align

from d2_seesaw.modeling.roi_heads import OffsetROIPooler
from d2_seesaw.modeling.roi_heads.offset_pooler import check_pooler, pool_and_encode
from tests.modeling.roi_heads import parts, tsd_parts


def detectron2_pooler():
    return ROIPooler(7, [1 / 4, 1 / 8], 2, "ROIAlignV2", canonical_box_size=64, canonical_level=4)


@pytest.mark.parametrize("offsets", [None, torch.zeros(10, 2), torch.zeros(10, 2, 7, 7)])
def test_zero_offsets_match_detectron2s_pooler(maps, boxes, offsets):
    pooled = tsd_parts.pooler()(maps, boxes, offsets)
    assert set(assign_boxes_to_levels(boxes, 2, 3, 64, 4).tolist()) == {0, 1}
    torch.testing.assert_close(pooled, detectron2_pooler()(maps, boxes), atol=1e-5, rtol=1e-5)


def test_moved_boxes_are_pooled_in_pixels_of_the_image(maps, boxes):
    offsets = torch.randn(10, 2) * 5
    moved = torch.cat([b.tensor for b in boxes]) + offsets.repeat(1, 2)
    moved = [Boxes(b) for b in moved.split([6, 0, 4])]
    pooled = tsd_parts.pooler()(maps, boxes, offsets)
    torch.testing.assert_close(pooled, detectron2_pooler()(maps, moved), atol=1e-4, rtol=1e-4)


def test_the_sampling_ratio_with_offsets_can_be_set(maps, boxes):
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


def test_other_pooler_types_and_non_square_outputs_are_rejected():
    with pytest.raises(ValueError, match="need pooler_type 'ROIAlignV2', got 'ROIPool'"):
        OffsetROIPooler(7, [1 / 4], 0, "ROIPool")
    with pytest.raises(ValueError, match=r"need a square output_size, got \(7, 5\)"):
        OffsetROIPooler((7, 5), [1 / 4])


# --- pooling and encoding ---


class _Moving(nn.Module):
    needs_pooler = True

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.ones(2))

    def forward(self, pool, box_lists):
        number = sum(map(len, box_lists))
        return pool() + 2 * pool(offsets=self.offset.expand(number, 2))


@pytest.fixture
def inputs():
    maps = list(parts.features(2).values())
    return maps, [p.proposal_boxes for p in parts.batch()[1]]


def test_ordinary_heads_receive_pooled_features(inputs):
    pooler, head = parts.pooler(7), parts.box_head()
    torch.testing.assert_close(pool_and_encode(head, pooler, *inputs), head(pooler(*inputs)))


def test_pooling_heads_receive_the_pooler(inputs):
    pooler, head = tsd_parts.pooler(), _Moving()
    found = pool_and_encode(head, pooler, *inputs)
    expected = pooler(*inputs) + 2 * pooler(*inputs, torch.ones(80, 2))
    torch.testing.assert_close(found, expected)


def test_only_the_gradient_of_the_feature_maps_is_scaled(inputs):
    pooler, head = tsd_parts.pooler(), _Moving()
    whole = pool_and_encode(head, pooler, *inputs)
    scaled = pool_and_encode(head, pooler, *inputs, gradient_scale=0.25)
    assert torch.equal(whole, scaled)
    wanted = [*inputs[0], head.offset]
    *map_gradients, offset_gradient = torch.autograd.grad(whole.square().sum(), wanted)
    *scaled_map_gradients, scaled_offset_gradient = torch.autograd.grad(
        scaled.square().sum(), wanted
    )
    torch.testing.assert_close(scaled_map_gradients, [g / 4 for g in map_gradients])
    torch.testing.assert_close(scaled_offset_gradient, offset_gradient)


def test_pooling_heads_need_a_pooler_with_offsets():
    check_pooler([parts.box_head()], parts.pooler(7))
    check_pooler([_Moving()], tsd_parts.pooler())
    with pytest.raises(ValueError, match=r"_Moving pools .* ROIPooler does not.*OffsetROIPooler"):
        check_pooler([parts.box_head(), _Moving()], parts.pooler(7))
