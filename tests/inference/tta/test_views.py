import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from fvcore.transforms import HFlipTransform

from d2_seesaw.inference.tta.views import View, check_scales, views_of


def view(size=(90, 121), frame=(60, 80), *, mirrored=False):
    return View(0, size, frame, mirrored)


def original():
    return np.random.randint(0, 256, (57, 77, 3), dtype=np.uint8)


def test_an_upright_view_equals_the_output_of_the_test_mapper():
    image = original()
    expected = T.ResizeTransform(57, 77, 90, 121).apply_image(image)
    made = view().image(image)
    assert made.dtype == torch.uint8
    np.testing.assert_array_equal(made.permute(1, 2, 0).numpy(), expected)


def test_a_mirrored_view_equals_the_upright_one_flipped_left_to_right():
    image = original()
    assert torch.equal(view(mirrored=True).image(image), view().image(image).flip(2))


def test_images_of_other_types_are_resized_as_well():
    image = original().astype(np.float32)
    made = view(mirrored=True).image(image)
    assert made.shape == (3, 90, 121)
    assert made.dtype == torch.float32


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_are_transformed_as_by_detectron2(mirrored):
    boxes = torch.rand(9, 4).sort(1).values[:, [0, 1, 2, 3]] * 50
    host = T.TransformList([T.ResizeTransform(60, 80, 90, 121)])
    if mirrored:
        host = host + T.TransformList([HFlipTransform(121)])
    expected = torch.from_numpy(host.apply_box(boxes.numpy())).float()
    made = view(mirrored=mirrored)
    torch.testing.assert_close(made.to_view(boxes), expected)
    torch.testing.assert_close(made.to_frame(expected), boxes)


def test_boxes_of_several_classes_are_transformed_one_by_one():
    boxes = torch.rand(5, 12) * 50
    made = view(mirrored=True)
    expected = torch.stack([made.to_frame(b.view(-1, 4)).flatten() for b in boxes])
    assert torch.equal(made.to_frame(boxes), expected)


def test_given_boxes_are_not_modified():
    boxes = torch.rand(5, 4)
    before = boxes.clone()
    for mirrored in (False, True):
        view(mirrored=mirrored).to_frame(boxes)
        view(mirrored=mirrored).to_view(boxes)
    assert torch.equal(boxes, before)


def test_masks_are_flipped_back_along_x_exactly():
    masks = torch.rand(3, 1, 28, 28)
    assert torch.equal(view(mirrored=True).unmirror(masks)[..., 0], masks[..., 27])
    assert torch.equal(view(mirrored=True).unmirror(masks)[:, :, 3].flip(-1), masks[:, :, 3])
    assert view().unmirror(masks) is masks


def test_each_scale_has_its_own_limit_of_the_long_edge():
    views = views_of((100, 400), (100, 400), [(200, 300), (200, 900)], flip=False)
    assert [v.size for v in views] == [(75, 300), (200, 800)]


def test_equal_edges_set_the_long_edge():
    views = views_of((480, 640), (480, 640), check_scales([1200, (2000, 2000)]), flip=False)
    assert [v.size for v in views] == [(900, 1200), (1500, 2000)]


def test_sizes_equal_those_of_detectron2s_augmentation():
    for size in ((375, 500), (640, 427), (333, 1000)):
        image = np.zeros((*size, 3), dtype=np.uint8)
        (made,) = views_of(size, size, [(80, 133)], flip=False)
        expected = T.ResizeShortestEdge(80, 133).get_transform(image).apply_image(image)
        assert made.size == expected.shape[:2]


def test_views_of_an_elongated_image_keep_a_pixel():
    for size, expected in (((1000, 1), (160, 1)), ((2, 1000), (1, 160))):
        (made,) = views_of(size, size, [(96, 160)], flip=False)
        assert made.image(np.zeros((*size, 3), np.uint8)).shape == (3, *expected)


def test_mirrored_views_come_after_their_upright_ones_and_all_are_numbered():
    views = views_of((10, 10), (20, 30), [(10, 10), (30, 30)], flip=True)
    assert [(v.number, v.size[0], v.mirrored) for v in views] == [
        (0, 10, False),
        (1, 10, True),
        (2, 30, False),
        (3, 30, True),
    ]
    assert {v.frame for v in views} == {(20, 30)}


def test_scales_are_normalized_and_sorted():
    assert check_scales([[9, 9], (5, 8), 7, (5, 6)]) == [(5, 6), (5, 8), (7, 7), (9, 9)]


@pytest.mark.parametrize("scale", [(8, 5), (0, 5), (5,), (5.5, 8), -3])
def test_invalid_scales_are_named(scale):
    with pytest.raises(ValueError, match=r"pairs of pixels \(short edge, limit .* Got \("):
        check_scales([(5, 8), scale])


@pytest.mark.parametrize("scales", [[], [(5, 8), [5, 8]]])
def test_empty_and_repeated_scales_are_refused(scales):
    with pytest.raises(ValueError, match="at least one pair and each once"):
        check_scales(scales)
