import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge

from d2_seesaw.data import OpenCVResizeShortestEdge, OpenCVResizeTransform


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
