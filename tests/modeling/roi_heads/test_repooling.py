import pytest
import torch
from torch import nn

from d2_seesaw.modeling.roi_heads.offset_pooler import check_pooler, pool_and_encode
from tests.modeling.roi_heads import parts, tsd_parts


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


def test_other_heads_are_given_what_is_pooled(inputs):
    pooler, head = parts.pooler(7), parts.box_head()
    torch.testing.assert_close(pool_and_encode(head, pooler, *inputs), head(pooler(*inputs)))


def test_heads_that_pool_are_given_the_pooler(inputs):
    pooler, head = tsd_parts.pooler(), _Moving()
    found = pool_and_encode(head, pooler, *inputs)
    expected = pooler(*inputs) + 2 * pooler(*inputs, torch.ones(80, 2))
    torch.testing.assert_close(found, expected)


def test_only_the_gradient_of_the_maps_is_scaled(inputs):
    pooler, head = tsd_parts.pooler(), _Moving()
    whole = pool_and_encode(head, pooler, *inputs)
    scaled = pool_and_encode(head, pooler, *inputs, gradient_scale=0.25)
    assert torch.equal(whole, scaled)
    wanted = [*inputs[0], head.offset]
    *of_maps, of_offset = torch.autograd.grad(whole.square().sum(), wanted)
    *of_scaled_maps, of_scaled_offset = torch.autograd.grad(scaled.square().sum(), wanted)
    torch.testing.assert_close(of_scaled_maps, [g / 4 for g in of_maps])
    torch.testing.assert_close(of_scaled_offset, of_offset)


def test_heads_that_pool_need_a_pooler_with_offsets():
    check_pooler([parts.box_head()], parts.pooler(7))
    check_pooler([_Moving()], tsd_parts.pooler())
    with pytest.raises(ValueError, match=r"_Moving moves .* a ROIPooler cannot.*OffsetROIPooler"):
        check_pooler([parts.box_head(), _Moving()], parts.pooler(7))
