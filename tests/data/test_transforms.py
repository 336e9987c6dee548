import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image, ImageEnhance

from d2_seesaw.data import (
    EnlargeToCrop,
    OpenCVResize,
    OpenCVResizeShortestEdge,
    OpenCVResizeTransform,
    PillowColorJitter,
)
from d2_seesaw.data.transforms import PixelKeepingAugmentations, shortest_edge_size


@pytest.mark.parametrize("new_size", [(75, 100), (20, 31), (50, 60)])
@pytest.mark.parametrize("shape", [(50, 60, 3), (50, 60, 1), (50, 60)])
def test_pixels_equal_opencvs(shape, new_size):
    image = np.random.randint(0, 256, shape, dtype=np.uint8)
    resized = OpenCVResizeTransform(50, 60, *new_size).apply_image(image)
    expected = cv2.resize(image, new_size[::-1], interpolation=cv2.INTER_LINEAR)
    assert resized.shape == (*new_size, *shape[2:])
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, expected.reshape(resized.shape))


def test_bilinear_samples_between_pixel_centers_without_averaging():
    # Half the size: each new pixel is the mean of the two in the middle of four, as in mmdet.
    row = np.array([[0, 40, 80, 120, 0, 0, 200, 100]], np.float32)
    resized = OpenCVResizeTransform(1, 8, 1, 2).apply_image(row)
    np.testing.assert_allclose(resized, [[60, 100]])
    pillow = T.ResizeTransform(1, 8, 1, 2).apply_image(row.astype(np.uint8))
    assert np.abs(pillow - resized).max() > 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_segmentations_keep_their_labels_and_dtype(dtype):
    labels = (np.arange(12).reshape(3, 4) % 2 * 200).astype(dtype)
    resized = OpenCVResizeTransform(3, 4, 6, 8).apply_segmentation(labels)
    assert resized.dtype == dtype
    np.testing.assert_array_equal(resized, labels.repeat(2, axis=0).repeat(2, axis=1))


def test_reversed_channels_are_accepted():
    image = np.random.randint(0, 256, (8, 6, 3), dtype=np.uint8)
    transform = OpenCVResizeTransform(8, 6, 16, 12)
    expected = transform.apply_image(image)[:, :, ::-1]
    np.testing.assert_array_equal(transform.apply_image(image[:, :, ::-1]), expected)


def test_boxes_and_polygons_are_scaled_and_restored_by_the_inverse():
    transform = OpenCVResizeTransform(40, 60, 100, 90)
    boxes = np.array([[0.0, 0.0, 60.0, 40.0], [6.0, 4.0, 12.0, 8.0]])
    scaled = transform.apply_box(boxes)
    np.testing.assert_allclose(scaled, [[0, 0, 90, 100], [9, 10, 18, 20]])
    np.testing.assert_allclose(transform.inverse().apply_box(scaled), boxes)
    (polygon,) = transform.apply_polygons([np.array([[6.0, 4.0], [12.0, 8.0], [0.0, 2.0]])])
    np.testing.assert_allclose(polygon, [[9, 10], [18, 20], [0, 5]])


def test_the_inverse_restores_the_size_of_an_image():
    inverse = OpenCVResizeTransform(40, 60, 100, 90).inverse()
    assert inverse.apply_image(np.zeros((100, 90, 3), np.uint8)).shape == (40, 60, 3)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="for images of 40 x 60, got 60 x 40"):
        OpenCVResizeTransform(40, 60, 80, 120).apply_image(np.zeros((60, 40, 3), np.uint8))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 427), (1199, 800)),
        ((333, 500), (800, 1201)),
        ((300, 900), (444, 1333)),
        # mmdet multiplies once and rounds halves up; Detectron2 gets 451 and 666.
        ((210, 620), (452, 1333)),
        ((692, 346), (1333, 667)),
    ],
)
def test_the_size_equals_mmdets(size, expected):
    transform = OpenCVResizeShortestEdge(800, 1333).get_transform(np.zeros((*size, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == expected


def test_only_the_rounding_differs_from_detectron2s_sizes():
    augmentation = OpenCVResizeShortestEdge(800, 1333)
    for h, w in np.random.randint(1, 2000, (500, 2)):
        t = augmentation.get_transform(np.broadcast_to(np.uint8(0), (h, w, 3)))
        host = ResizeShortestEdge.get_output_shape(h, w, 800, 1333)
        assert max(abs(t.new_h - host[0]), abs(t.new_w - host[1])) <= 1


def test_one_of_several_lengths_is_drawn_for_each_image():
    augmentation = OpenCVResizeShortestEdge([20, 30], 1000)
    image = np.zeros((10, 10, 3), np.uint8)
    assert {augmentation.get_transform(image).new_h for _ in range(50)} == {20, 30}


def test_the_resize_works_in_a_list_of_augmentations():
    data = T.AugInput(np.zeros((10, 20, 3), np.uint8), boxes=np.array([[2.0, 2.0, 4.0, 6.0]]))
    transforms = T.AugmentationList([OpenCVResizeShortestEdge(20, 100)])(data)
    assert data.image.shape == (20, 40, 3)
    np.testing.assert_allclose(data.boxes, [[4, 4, 8, 12]])
    np.testing.assert_allclose(transforms.inverse().apply_box(data.boxes), [[2, 2, 4, 6]])


def test_a_fixed_size_equals_opencvs():
    image = np.random.randint(0, 256, (76, 128, 3), dtype=np.uint8)
    resized = OpenCVResize((38, 77)).get_transform(image).apply_image(image)
    np.testing.assert_array_equal(resized, cv2.resize(image, (77, 38)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # Recorded from the RandomCrop(769) of Recall Loss's authors.
        ((768, 1536), (770, 1539)),
        ((700, 500), (1077, 770)),
        ((500, 500), (770, 770)),
        ((769, 769), (769, 769)),
        ((1024, 2048), (1024, 2048)),
    ],
)
def test_images_smaller_than_the_crop_are_enlarged_as_by_the_authors(size, expected):
    image = np.random.randint(0, 256, (*size, 3), dtype=np.uint8)
    transform = EnlargeToCrop((769, 769)).get_transform(image)
    enlarged = transform.apply_image(image)
    pillow = Image.fromarray(image).resize(expected[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(enlarged, image if size == expected else np.asarray(pillow))


def test_color_jitter_equals_pillows_three_enhancements(monkeypatch):
    factors = [0.6, 1.4, 0.7]
    drawn = []
    monkeypatch.setattr(
        np.random, "uniform", lambda low, high: drawn.append((low, high)) or np.array(factors)
    )
    image = np.random.randint(0, 256, (20, 30, 3), dtype=np.uint8)
    transform = PillowColorJitter(0.5, 0.25, 1.5).get_transform(image)
    expected = ImageEnhance.Brightness(Image.fromarray(image)).enhance(factors[0])
    expected = ImageEnhance.Contrast(expected).enhance(factors[1])
    expected = ImageEnhance.Color(expected).enhance(factors[2])
    np.testing.assert_array_equal(transform.apply_image(image), np.asarray(expected))
    np.testing.assert_array_equal(np.stack(drawn[0]), [[0.5, 0.75, 0], [1.5, 1.25, 2.5]])
    labels = np.arange(600, dtype=np.uint8).reshape(20, 30)
    np.testing.assert_array_equal(transform.apply_segmentation(labels), labels)


THIN = [(1000, 1), (1, 1000), (3, 2000)]
RESIZES = {
    "shortest edge": T.ResizeShortestEdge(96, 160),
    "scale": T.ResizeScale(0.1, 0.1, 100, 100),
    "opencv": OpenCVResizeShortestEdge(96, 160),
    "at random": T.RandomApply(T.ResizeShortestEdge(96, 160), 1.0),
    "list": T.AugmentationList([T.ResizeShortestEdge(96, 160)]),
}


@pytest.mark.parametrize("size", THIN)
@pytest.mark.parametrize("resize", RESIZES)
def test_the_sides_of_elongated_images_keep_a_pixel(resize, size):
    image = np.full((*size, 3), 7, np.uint8)
    data = T.AugInput(image, sem_seg=np.ones(size, np.uint8))
    transforms = PixelKeepingAugmentations([RESIZES[resize]])(data)
    assert min(data.image.shape[:2]) == 1
    assert (data.image == 7).all()
    assert data.sem_seg.shape == data.image.shape[:2] == transforms.apply_image(image).shape[:2]
    corner = transforms.apply_coords(np.array([[float(size[1]), float(size[0])]]))
    np.testing.assert_allclose(corner[0], data.image.shape[1::-1])


def test_other_images_and_draws_are_as_without_the_rule():
    rng = np.random.default_rng(0)
    plain = T.AugmentationList([T.ResizeShortestEdge([20, 90], 160), T.RandomFlip()])
    kept = PixelKeepingAugmentations(plain)
    for size in rng.integers(10, 300, (40, 2)).tolist():
        inputs = [T.AugInput(rng.integers(0, 256, (*size, 3), np.uint8))]
        inputs.append(T.AugInput(inputs[0].image))
        for augmentations, data in zip((plain, kept), inputs, strict=True):
            np.random.seed(sum(size))
            augmentations(data)
        assert np.array_equal(inputs[0].image, inputs[1].image)
        expected = ResizeShortestEdge.get_output_shape(*size, 90, 160)
        assert shortest_edge_size(*size, 90, 160) == expected
    assert shortest_edge_size(1000, 1, 96, 160) == (160, 1)
    assert shortest_edge_size(2, 1000, 96, 160) == (1, 160)
