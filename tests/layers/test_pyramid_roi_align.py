import pytest
import torch
from torchvision.ops import roi_align

from d2_seesaw.layers import roi_align_pyramid
from d2_seesaw.layers.pyramid_roi_align import MAX_SAMPLES

SCALES = (1 / 4, 1 / 8)
SIZE = (3, 2)
HEIGHT, WIDTH = 40, 56  # of the images


def pyramid(dtype=torch.float32):
    return [torch.randn(2, 5, 10, 14, dtype=dtype), torch.randn(2, 5, 5, 7, dtype=dtype)]


def draw_rois(dtype=torch.float32):
    """Draw RoIs inside, across every border and outside, also without an extent, or swapped."""
    corners = torch.rand(60, 2) * torch.tensor([WIDTH + 40.0, HEIGHT + 40.0]) - 20
    boxes = torch.cat([corners, corners + 1 + torch.rand(60, 2) * 40], dim=1)
    boxes[:8] = torch.tensor(
        [
            [-60.0, 5, -30, 20],  # outside
            [5, 90, 30, 99],
            [-50, -50, 150, 150],  # around the image
            [10, 10, 10, 30],  # no width
            [10, 10, 10, 10],
            [20, 20, 12, 8],  # corners swapped
            [20, 8, 12, 20],
            [0, 0, WIDTH, 1],  # thin
        ]
    )
    return torch.cat([torch.arange(60.0)[:, None] % 2, boxes], dim=1).to(dtype)


def torchvisions(features, rois, levels, sampling_ratio, aligned):
    pooled = features[0].new_zeros(len(rois), 5, *SIZE)
    for level, (x, scale) in enumerate(zip(features, SCALES, strict=True)):
        of_level = (levels == level).nonzero().squeeze(1)
        values = roi_align(x, rois[of_level], SIZE, scale, sampling_ratio, aligned)
        pooled = pooled.index_put((of_level,), values)
    return pooled


def ours(features, rois, levels, sampling_ratio, aligned):
    return roi_align_pyramid(
        features,
        rois,
        levels,
        SIZE,
        scales=SCALES,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_torchvisions(aligned, sampling_ratio, memory_format):
    features = [x.to(memory_format=memory_format).requires_grad_() for x in pyramid()]
    rois, levels = draw_rois(), torch.randint(2, (60,))
    expected = torchvisions(features, rois, levels, sampling_ratio, aligned)
    assert (expected.flatten(1) == 0).all(dim=1).sum() >= 2
    pooled = ours(features, rois, levels, sampling_ratio, aligned)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(pooled, features, upstream)
    for gradient, known in zip(
        gradients, torch.autograd.grad(expected, features, upstream), strict=True
    ):
        torch.testing.assert_close(gradient, known, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradients_are_those_of_finite_differences(sampling_ratio):
    rois, levels = draw_rois(torch.float64)[:12], torch.arange(12) % 2
    features = [x.requires_grad_() for x in pyramid(torch.float64)]
    torch.autograd.gradcheck(
        lambda *x: ours(x, rois, levels, sampling_ratio, True), features, fast_mode=True
    )


def test_results_do_not_depend_on_the_chunks(monkeypatch):
    features, rois, levels = pyramid(), draw_rois(), torch.randint(2, (60,))
    at_once = ours(features, rois, levels, 0, True)
    monkeypatch.setattr("d2_seesaw.layers.pyramid_roi_align.CHUNK", 500)
    assert torch.equal(ours(features, rois, levels, 0, True), at_once)


def test_channels_are_last_in_memory():
    pooled = ours(pyramid(), draw_rois(), torch.zeros(60, dtype=torch.int64), 2, True)
    assert pooled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [SIZE[1] * 4 * (MAX_SAMPLES + 1), float("nan"), float("inf")])
def test_rois_of_absurd_sizes_and_no_rois_are_left_to_torchvision(side):
    rois = draw_rois()[:1]
    rois[0, 1:] = torch.tensor([0, 0, side, side])
    assert ours(pyramid(), rois, torch.zeros(1, dtype=torch.int64), 0, True) is None
    assert ours(pyramid(), rois[:0], torch.zeros(0, dtype=torch.int64), 0, True) is None
