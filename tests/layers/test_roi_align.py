import pytest
import torch
from torchvision.ops import roi_align

from d2_seesaw.layers import roi_align_with_offsets

B = 3
SCALE = 1 / 4
HEIGHT, WIDTH = 40, 56  # of the images; the feature map is 10 x 14


def feature_map(dtype=torch.float32):
    return torch.randn(2, 5, 10, 14, dtype=dtype)


def random_rois():
    """Draw RoIs of two alternating images: inside, across every border and outside."""
    corners = torch.rand(40, 2) * torch.tensor([WIDTH + 40.0, HEIGHT + 40.0]) - 20
    boxes = torch.cat([corners, corners + 1 + torch.rand(40, 2) * 30], dim=1)
    boxes[-2:] = torch.tensor([[-60.0, 5, -30, 20], [-50, -50, 150, 150]])
    return torch.cat([torch.arange(40.0)[:, None] % 2, boxes], dim=1)


def torchvision_roi_align(x, rois, size=B, sampling_ratio=2):
    return roi_align(x, rois, size, SCALE, sampling_ratio, aligned=True)


@pytest.mark.parametrize("per_bin", [False, True])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_zero_offsets_match_torchvisions_roi_align_and_its_gradient(per_bin, sampling_ratio):
    x, rois = feature_map().requires_grad_(), random_rois()
    offsets = torch.zeros(40, 2, B, B) if per_bin else torch.zeros(40, 2)
    pooled = roi_align_with_offsets(
        x, rois, offsets, B, spatial_scale=SCALE, sampling_ratio=sampling_ratio
    )
    expected = torchvision_roi_align(x, rois, sampling_ratio=sampling_ratio)
    assert not expected[-2].any()
    assert (expected.flatten(1) == 0).any(dim=1).sum() > 3
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(pooled, x, upstream)
    (expected,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-5)


def test_offsets_per_roi_match_torchvisions_roi_align_of_the_moved_box():
    x, rois, offsets = feature_map(), random_rois(), torch.randn(40, 2) * 6
    moved = rois.clone()
    moved[:, [1, 3]] += offsets[:, :1]
    moved[:, [2, 4]] += offsets[:, 1:]
    pooled = roi_align_with_offsets(x, rois, offsets, B, spatial_scale=SCALE)
    torch.testing.assert_close(pooled, torchvision_roi_align(x, moved), atol=1e-5, rtol=1e-5)


def test_offsets_per_bin_match_torchvisions_roi_align_of_each_bin():
    x, rois, offsets = feature_map(), random_rois(), torch.randn(40, 2, B, B) * 6
    pooled = roi_align_with_offsets(x, rois, offsets, B, spatial_scale=SCALE)
    width, height = ((rois[:, 3:] - rois[:, 1:3]) / B).unbind(1)
    for row in range(B):
        for column in range(B):
            dx, dy = offsets[:, :, row, column].unbind(1)
            x0 = rois[:, 1] + column * width + dx
            y0 = rois[:, 2] + row * height + dy
            one_bin = torch.stack([rois[:, 0], x0, y0, x0 + width, y0 + height], dim=1)
            expected = torchvision_roi_align(x, one_bin, size=1)[:, :, 0, 0]
            torch.testing.assert_close(pooled[:, :, row, column], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 2, 2)])
def test_gradients_match_finite_differences(shape):
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.1, 0.8, 4.3, 3.9], [1, -0.7, 0.2, 2.6, 2.9], [0, 3, 2, 7.2, 6]])
    offsets = (torch.rand(shape, dtype=torch.float64) - 0.5).requires_grad_()

    def pool(x, offsets):
        return roi_align_with_offsets(x, rois.double(), offsets, 2)

    assert torch.autograd.gradcheck(pool, (x, offsets))
    (gradient,) = torch.autograd.grad(pool(x, offsets).square().sum(), offsets)
    assert (gradient[0] != 0).all()  # can be 0 for the other two, which cross the border


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_features_are_sampled_at_full_precision_positions(autocast):
    x, rois, offsets = feature_map(torch.bfloat16), random_rois(), torch.randn(40, 2) * 6
    expected = roi_align_with_offsets(x.float(), rois, offsets, B, spatial_scale=SCALE)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pooled = roi_align_with_offsets(x, rois, offsets, B, spatial_scale=SCALE)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled, expected.bfloat16())


def test_zero_rois_give_zero_gradients():
    x, offsets = feature_map().requires_grad_(), torch.zeros(0, 2, B, B, requires_grad=True)
    pooled = roi_align_with_offsets(x, torch.zeros(0, 5), offsets, B)
    assert pooled.shape == (0, 5, B, B)
    x_gradient, offset_gradient = torch.autograd.grad(pooled.sum(), (x, offsets))
    assert not x_gradient.any()
    assert offset_gradient.shape == offsets.shape


def test_offsets_of_the_wrong_shape_are_reported():
    with pytest.raises(ValueError, match=r"\(40, 2\) or \(40, 2, 3, 3\).*got \(40, 3, 3, 2\)"):
        roi_align_with_offsets(feature_map(), random_rois(), torch.zeros(40, 3, 3, 2), B)
