from functools import partial

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from d2_seesaw.modeling.roi_heads import TSDBoxHead
from tests.modeling.roi_heads import parts, tsd_parts


@pytest.fixture
def rois():
    """Return a pooling function and the boxes of two images with 40 RoIs each."""
    features, proposals, _ = parts.batch()
    boxes = [p.proposal_boxes for p in proposals]
    return partial(tsd_parts.pooler(), list(features.values()), boxes), boxes


class _Constant(nn.Module):
    """Module with a constant output."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x):
        return self.output


@pytest.fixture
def head_with_fixed_offsets():
    """Return a head with fixed offsets."""
    head = tsd_parts.box_head()
    head.delta_c = _Constant(torch.randn(80, 98))
    head.delta_r = _Constant(torch.randn(80, 2))
    return head


def test_offsets_are_in_tenths_of_the_box_size_x_first(head_with_fixed_offsets, rois):
    pool, boxes = rois
    tensor = torch.cat([b.tensor for b in boxes])
    bin_offsets, box_offsets = head_with_fixed_offsets.offsets(pool(), tensor)
    delta_c, delta_r = (
        head_with_fixed_offsets.delta_c.output,
        head_with_fixed_offsets.delta_r.output,
    )
    for r in (0, 33, 79):
        x0, y0, x1, y1 = tensor[r].tolist()
        for row, column in ((0, 0), (2, 5), (6, 1)):
            dx, dy = bin_offsets[r, :, row, column].tolist()
            assert dx == pytest.approx(0.1 * delta_c[r, 7 * row + column].item() * (x1 - x0))
            assert dy == pytest.approx(0.1 * delta_c[r, 49 + 7 * row + column].item() * (y1 - y0))
        dx, dy = box_offsets[r].tolist()
        assert dx == pytest.approx(0.1 * delta_r[r, 0].item() * (x1 - x0))
        assert dy == pytest.approx(0.1 * delta_r[r, 1].item() * (y1 - y0))


def test_the_scale_of_offsets_can_be_set(rois):
    pool, boxes = rois
    tensor = torch.cat([b.tensor for b in boxes])
    head, wide = tsd_parts.box_head(), tsd_parts.box_head(offset_scale=0.3)
    wide.load_state_dict(head.state_dict())
    for found, expected in zip(
        wide.offsets(pool(), tensor), head.offsets(pool(), tensor), strict=True
    ):
        assert expected.any()
        torch.testing.assert_close(found, 3 * expected)


def test_classification_uses_moved_bins_and_regression_moved_boxes(head_with_fixed_offsets, rois):
    pool, boxes = rois
    tensor = torch.cat([b.tensor for b in boxes])
    head = head_with_fixed_offsets
    found = head(pool, boxes)
    bin_offsets, box_offsets = head.offsets(pool(), tensor)
    torch.testing.assert_close(found.classification, head.classification(pool(bin_offsets)))
    torch.testing.assert_close(found.localization, head.localization(pool(box_offsets)))
    torch.testing.assert_close(found.sibling, head.sibling(pool()))
    dx, dy = box_offsets.unbind(1)
    torch.testing.assert_close(found.boxes, tensor + torch.stack([dx, dy, dx, dy], dim=1))


def test_with_zero_offsets_and_equal_weights_all_branches_agree(rois):
    head = tsd_parts.box_head()
    tsd_parts.stay_in_place(head)
    found = head(*rois)
    assert found.sibling.abs().max() > 0.1
    torch.testing.assert_close(found.classification, found.sibling, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.localization, found.sibling, atol=1e-5, rtol=1e-5)


def test_the_sibling_is_not_run_in_inference(rois):
    head = tsd_parts.box_head()
    head.sibling.forward = None  # not even called
    assert head.eval()(*rois).sibling is None


def test_each_branch_trains_its_own_offsets(rois):
    head = tsd_parts.box_head()
    found = head(*rois)
    own = [head.delta_c[-1].weight, head.delta_r[-1].weight]
    options = {"retain_graph": True, "allow_unused": True}
    bin_offsets, box_offsets = torch.autograd.grad(found.classification.sum(), own, **options)
    assert bin_offsets.any()
    assert box_offsets is None
    bin_offsets, box_offsets = torch.autograd.grad(found.localization.sum(), own, **options)
    assert bin_offsets is None
    assert box_offsets.any()
    for branch in (found.classification, found.localization):
        (shared,) = torch.autograd.grad(branch.sum(), head.shared_fc[0].weight, retain_graph=True)
        assert shared.any()
    bin_offsets, box_offsets = torch.autograd.grad(
        found.boxes.square().sum(), own, allow_unused=True
    )
    assert bin_offsets is None
    assert box_offsets.any()


def test_initial_offsets_are_nonzero_without_bias():
    head = TSDBoxHead(ShapeSpec(channels=32, height=7, width=7), fc_dims=[8])
    for layer in (head.shared_fc[0], head.delta_c[0], head.delta_c[2], head.delta_r[0]):
        assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(int(layer.in_features) ** -0.5, rel=0.05)
    assert head.delta_r[2].weight.any()


def test_offsets_are_float32_under_autocast(rois):
    pool, boxes = rois
    head = tsd_parts.box_head()
    with torch.autocast("cpu", torch.bfloat16):
        x = pool().bfloat16()
        bin_offsets, box_offsets = head.offsets(x, torch.cat([b.tensor for b in boxes]))
        found = head(pool, boxes)
    assert {bin_offsets.dtype, box_offsets.dtype, found.boxes.dtype} == {torch.float32}
    assert found.classification.dtype == torch.bfloat16


def test_zero_rois_give_every_parameter_a_gradient():
    maps = list(parts.features(1).values())
    boxes = [parts.no_proposals().proposal_boxes]
    head = tsd_parts.box_head(conv_dims=[4])
    found = head(partial(tsd_parts.pooler(), maps, boxes), boxes)
    assert [len(f) for f in found] == [0, 0, 0, 0]
    sum(f.sum() for f in found).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name


def test_output_shape_matches_the_branches():
    assert tsd_parts.box_head().output_shape == ShapeSpec(channels=parts.WIDTH)


def test_non_square_rois_are_rejected():
    with pytest.raises(ValueError, match="equal height and width, got ShapeSpec"):
        TSDBoxHead(ShapeSpec(channels=8, height=7, width=5), fc_dims=[8])
