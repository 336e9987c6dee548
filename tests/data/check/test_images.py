"""Tests of check_images, one fault at a time."""

import io
import re

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from d2_seesaw.data.check.images import ImageFile, check_images

H, W = 40, 60
PIXELS = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def intact(kind="JPEG"):
    return encoded(Image.fromarray(PIXELS), kind)


def rotated():
    """Encode an image that its EXIF orientation rotates."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(PIXELS.transpose(1, 0, 2)), "JPEG", exif=exif)


def gray_16():
    return encoded(Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200), "PNG")


def rgb_16():
    import cv2

    return cv2.imencode(".png", PIXELS.astype(np.uint16) * 200)[1].tobytes()


def gray_tiff(dtype):
    return encoded(Image.fromarray(PIXELS[:, :, 0].astype(dtype)), "TIFF")


def issues_of(tmp_path, content, name="a.jpg", **options):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    image = ImageFile(str(tmp_path / name), name, 7, H, W)
    return check_images([image], progress=False, **options)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, "missing_image", "a.jpg"),
        (intact()[:-800], "truncated_image", "truncated"),
        (intact("PNG")[:-800], "truncated_image", "truncated"),
        (b"", "unreadable_image", "the file is empty"),
        (b"<html>not found</html>", "unreadable_image", "cannot identify"),
        (encoded(Image.fromarray(PIXELS[:, :50]), "JPEG"), "wrong_size", "50 x 40, .* say 60 x 40"),
        (encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), "cmyk_image", "CMYK"),
        (gray_16(), "sixteen_bit_image", "more than 8 bits"),
        (rgb_16(), "sixteen_bit_image", "more than 8 bits"),
        (gray_tiff(np.int32), "sixteen_bit_image", "mode I"),
        (gray_tiff(np.float32), "sixteen_bit_image", "mode F"),
        (rotated(), "exif_orientation", "have the size of the turned image"),
    ],
    ids=[
        "missing",
        "jpeg",
        "png",
        "empty",
        "html",
        "size",
        "cmyk",
        "gray16",
        "rgb16",
        "int32",
        "float32",
        "rotated",
    ],
)
def test_a_fault_is_reported_with_file_and_image(tmp_path, content, kind, words):
    (issue,) = issues_of(tmp_path, content)
    assert (issue.kind, issue.file_name, issue.image_id) == (kind, "a.jpg", 7)
    assert re.search(words, issue.message)


@pytest.mark.parametrize(
    "content",
    [
        intact(),
        intact("PNG"),
        encoded(Image.fromarray(PIXELS).convert("L"), "JPEG"),
        encoded(Image.fromarray(PIXELS).convert("P"), "PNG"),
    ],
    ids=["jpeg", "png", "gray", "palette"],
)
def test_intact_images_have_no_issues(tmp_path, content):
    assert issues_of(tmp_path, content) == []


def test_a_png_with_a_broken_chunk_is_reported_as_truncated(tmp_path):
    """Cover the SyntaxError that Pillow raises here instead of an OSError."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    content = encoded(Image.fromarray(pixels), "PNG")
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    broken = content[:second] + b"\0\0\0\0" + content[second + 4 :]
    (issue,) = issues_of(tmp_path, broken, "a.png")
    assert (issue.kind, "broken PNG" in issue.message) == ("truncated_image", True)


def test_a_folder_and_an_image_that_is_far_too_large_are_reported(tmp_path, monkeypatch):
    (tmp_path / "b.jpg").mkdir()
    (issue,) = issues_of(tmp_path, None, "b.jpg")
    assert issue.kind == "missing_image"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (issue,) = issues_of(tmp_path, intact("PNG"))
    assert issue.kind == "unreadable_image"
    assert "the limit is 20 (PIL.Image.MAX_IMAGE_PIXELS" in issue.message


def test_an_image_without_an_annotated_size_is_not_reported_as_wrong_size(tmp_path):
    (tmp_path / "a.png").write_bytes(intact("PNG"))
    image = ImageFile(str(tmp_path / "a.png"), "a.png", 7, None, W)
    assert check_images([image], progress=False) == []


def test_a_broken_exif_block_does_not_stop_the_check(tmp_path):
    """Break single bytes of an EXIF block that Pillow cannot rewrite."""
    exif = Image.Exif()
    exif[0x0112], exif[0x829A] = 6, (1, 3)
    content = encoded(Image.fromarray(PIXELS.transpose(1, 0, 2)), "JPEG", exif=exif)
    end = content.index(b"Exif") + 200
    for place in range(content.index(b"Exif"), end):
        for value in (0, 3, 255):
            broken = content[:place] + bytes([value]) + content[place + 1 :]
            (tmp_path / "a.jpg").write_bytes(broken)
            image = ImageFile(str(tmp_path / "a.jpg"), "a.jpg", 7, H, W)
            try:
                size = read_image(image.path).shape[:2]
            except (OSError, ValueError, SyntaxError):
                size = None
            kinds = {issue.kind for issue in check_images([image], workers=1, progress=False)}
            if size is not None:
                assert ("wrong_size" in kinds) == (size != (H, W)), (place, value)


def test_issues_come_in_the_order_of_the_images(tmp_path):
    images = [ImageFile(str(tmp_path / f"{i}.jpg"), f"{i}.jpg", i, H, W) for i in range(100)]
    (tmp_path / "50.jpg").write_bytes(intact())
    issues = check_images(images, workers=3, progress=False)
    assert [issue.image_id for issue in issues] == [i for i in range(100) if i != 50]


def test_a_progress_bar_is_shown_only_in_a_terminal(tmp_path, capfd):
    (tmp_path / "a.jpg").write_bytes(intact())
    check_images([ImageFile(str(tmp_path / "a.jpg"), "a.jpg", 1, H, W)])
    assert capfd.readouterr().err == ""
