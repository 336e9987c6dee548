import numpy as np
import pytest
import torch
from PIL import Image

from d2_seesaw.inference.tta.views import original_image


@pytest.fixture
def file(tmp_path):
    """Write a lossless image, red on the left and blue on the right."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, :30, 0] = 200
    pixels[:, 30:, 2] = 100
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return str(path), pixels


def test_an_image_that_the_mapper_has_resized_is_read_again(file):
    path, pixels = file
    resized = torch.zeros(3, 20, 30, dtype=torch.uint8)
    found, frame = original_image(
        {"file_name": path, "image": resized, "height": 40, "width": 60}, "RGB"
    )
    np.testing.assert_array_equal(found, pixels)
    assert frame == (40, 60)


def test_files_are_read_in_the_models_channel_order(file):
    path, pixels = file
    found, _ = original_image({"file_name": path}, "BGR")
    np.testing.assert_array_equal(found, pixels[:, :, ::-1])


def test_a_file_is_rotated_by_its_exif_orientation(file, tmp_path):
    _, pixels = file
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[274] = 6  # rotated by 90 degrees clockwise
    path = tmp_path / "turned.png"
    turned.save(path, exif=exif)
    found, frame = original_image({"file_name": str(path)}, "RGB")
    np.testing.assert_array_equal(found, np.rot90(pixels, -1))
    assert frame == (60, 40)


def test_an_image_of_the_frames_size_is_used_without_reading_the_file(file):
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    for more in ({}, {"height": 40, "width": 60}):
        found, frame = original_image({"image": image, "file_name": "not read"} | more, "RGB")
        np.testing.assert_array_equal(found, image.permute(1, 2, 0).numpy())
        assert frame == (40, 60)


def test_a_given_original_is_preferred_and_the_input_sets_the_frame(file):
    path, _ = file
    image = torch.randint(0, 256, (3, 11, 13), dtype=torch.uint8)
    given = {"original_image": image, "file_name": path, "height": 80, "width": 120}
    given["image"] = torch.zeros(3, 80, 120)
    found, frame = original_image(given, "RGB")
    np.testing.assert_array_equal(found, image.permute(1, 2, 0).numpy())
    assert frame == (80, 120)


def test_an_input_without_the_original_is_refused_with_its_sizes():
    given = {"image": torch.zeros(3, 20, 30), "height": 40, "width": 60}
    with pytest.raises(ValueError, match=r"size \(20, 30\), .* \(40, 60\). Give 'file_name'"):
        original_image(given, "RGB")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"image '/none\.jpg' does not exist.*original"):
        original_image({"file_name": "/none.jpg", "height": 4, "width": 6}, "RGB")


def test_files_need_an_image_format_if_the_model_has_none(file):
    with pytest.raises(ValueError, match="no input_format: give the image_format"):
        original_image({"file_name": file[0]}, None)
