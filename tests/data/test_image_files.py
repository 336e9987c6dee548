"""Image files of strangers: their number of pixels, their place and their kind."""

import os
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from d2_seesaw.data import InstanceDatasetMapper, SemanticDatasetMapper
from d2_seesaw.data.bad_images import BadImageError, NamingMapper
from d2_seesaw.data.check.images import ImageFile, check_images
from d2_seesaw.data.image_files import MAX_PIXELS, ImageFolder, open_image, read_image
from d2_seesaw.data.importers.files import image_size
from d2_seesaw.data.semantic.label_maps import read_labels
from d2_seesaw.inference.sources import UnreadableError, as_bgr, read_picture
from d2_seesaw.inference.tta.views import original_image
from tests.fuzz.harness import limited

SIDE = 60_000  # 3.6 gigapixels, more than the memory that a call gets


def png(width, height, *, bits=8, colors=2):
    """Return a PNG of a few bytes whose header promises any size."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def bomb(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(SIDE, SIDE))
    return path


@pytest.fixture
def large(tmp_path):
    """A picture of 12,000 x 12,000 pixels, within the limit of Pillow."""
    path = tmp_path / "large.png"
    path.write_bytes(png(12_000, 12_000))
    return path


@pytest.fixture(autouse=True)
def _never_decoded(monkeypatch):
    """Fail if the pixels of a huge picture are read."""
    load = Image.Image.load
    for cls in (Image.Image, *Image.Image.__subclasses__()):
        if "load" in vars(cls):
            load = vars(cls)["load"]

            def checked(image, *args, load=load):
                assert image.width * image.height <= MAX_PIXELS, "decoded"
                return load(image, *args)

            monkeypatch.setattr(cls, "load", checked)


def mapper(is_train=True):
    options = {"augmentations": [], "image_format": "BGR", "use_instance_mask": True}
    return NamingMapper(InstanceDatasetMapper(is_train=is_train, **options))


def semantic_mapper():
    return NamingMapper(SemanticDatasetMapper(is_train=True, augmentations=[], image_format="BGR"))


def record(path, side=32):
    return {"file_name": str(path), "height": side, "width": side, "image_id": 3}


ROADS = {
    "predict": (lambda p: read_picture(p), UnreadableError, "50,000,000 .*--max-pixels"),
    "report, draw and check": (
        lambda p: ImageFolder(p.parent).read(p),
        ValueError,
        "50,000,000 .*--max-pixels",
    ),
    "training and evaluation": (
        lambda p: mapper()(record(p)),
        BadImageError,
        "178,956,970 .*MAX_IMAGE_PIXELS",
    ),
    "label maps": (
        lambda p: read_labels({"sem_seg_file_name": str(p)}),
        ValueError,
        "178,956,970 .*MAX_IMAGE_PIXELS",
    ),
    "import": (lambda p: image_size(p, "a.json"), ValueError, "178,956,970 .*MAX_IMAGE_PIXELS"),
}


@pytest.mark.parametrize("road", ROADS)
def test_a_bomb_is_refused_from_its_header_with_file_size_limit_and_option(road, bomb):
    call, kind, limit = ROADS[road]
    message = rf"bomb\.png has 60000 x 60000 = 3,600,000,000 pixels, the limit is {limit} raises"
    with limited(), pytest.raises(kind, match=message):
        call(bomb)


def test_the_check_names_a_bomb_without_decoding_it(bomb):
    with limited():
        (issue,) = check_images([ImageFile(str(bomb), "bomb.png", 1, 9, 9)], progress=False)
    assert issue.kind == "unreadable_image"
    assert "60000 x 60000 = 3,600,000,000 pixels, the limit is 178,956,970" in issue.message


def test_a_large_image_that_is_not_as_annotated_is_refused_before_it_is_decoded(large):
    message = "large.png .*the image is 12000 x 12000, its annotations say 32 x 32"
    for reads in (mapper(), mapper(is_train=False), semantic_mapper()):
        with pytest.raises(BadImageError, match=message):
            reads(record(large))
    with pytest.raises(AssertionError, match="decoded"):  # its annotations may be right
        mapper().mapper(record(large, 12_000))


def test_a_label_map_of_another_size_is_refused_before_it_is_decoded(large):
    given = {"sem_seg_file_name": str(large), "height": 32, "width": 32}
    with pytest.raises(ValueError, match="12000 x 12000, but its image is 32 x 32"):
        read_labels(given)
    # OpenCV, which reads three channels of 16 bits, would take 6 bytes a pixel.
    large.write_bytes(png(30_000, 30_000, bits=16))
    with limited(), pytest.raises(ValueError, match="the limit is 178,956,970"):
        read_labels({"sem_seg_file_name": str(large)})


WIDE = {
    "gray.png": ("I;16", np.uint16),
    "gray.tif": ("I;16", np.uint16),
    "big_endian.tif": ("I;16B", ">u2"),
    "integers.tif": ("I", np.int32),
    "floats.tif": ("F", np.float32),
}


@pytest.mark.parametrize("name", WIDE)
def test_channels_that_would_be_clipped_are_refused_by_every_reader(name, tmp_path):
    mode, dtype = WIDE[name]
    path = tmp_path / name
    Image.fromarray((np.arange(32 * 32).reshape(32, 32) * 40).astype(dtype)).save(path)
    roads = [call for call, _, _ in list(ROADS.values())[:3]]
    roads += [
        lambda p: mapper(is_train=False)(record(p)),
        lambda p: semantic_mapper()(record(p)),
        lambda p: as_bgr(Image.open(p)),
        lambda p: original_image({"file_name": str(p)}, "BGR"),
    ]
    for call in roads:
        expected = rf"has more than 8 bits a channel \(mode {mode}\), .* mode L or RGB"
        with pytest.raises(ValueError, match=expected) as caught:
            call(path)
        assert name in str(caught.value) or "the image has" in str(caught.value)
    (issue,) = check_images([ImageFile(str(path), name, 1, 32, 32)], progress=False)
    assert (issue.kind, f"(mode {mode})" in issue.message) == ("sixteen_bit_image", True)


def test_eight_bits_and_label_maps_of_sixteen_are_read_as_ever(tmp_path):
    ramp = np.arange(32 * 32).reshape(32, 32)
    gray = Image.fromarray((ramp // 4).astype(np.uint8))
    palette = gray.quantize(9)
    palette.putpalette(list(range(27)))
    pictures = {m: gray.convert(m) for m in ("1", "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr")}
    for mode, picture in pictures.items():
        picture.save(tmp_path / f"{mode}.tif")
    palette.save(tmp_path / "palette.png", transparency=3)
    cv2.imwrite(str(tmp_path / "rgb16.png"), np.dstack([ramp.astype(np.uint16) * 60] * 3))
    for path in sorted(tmp_path.iterdir()):
        expected = detection_utils.read_image(str(path), "RGB")
        np.testing.assert_array_equal(read_image(path, "RGB"), expected)
        np.testing.assert_array_equal(read_picture(path, "RGB"), expected)
        mapped = mapper(is_train=False)(record(path))["image"].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(mapped, expected[:, :, ::-1])
    labels = (ramp % 7).astype(np.uint16)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    given = record(tmp_path / "L.tif") | {"sem_seg_file_name": str(tmp_path / "labels.png")}
    np.testing.assert_array_equal(semantic_mapper()(given)["sem_seg"].numpy(), labels)


def test_the_limit_can_be_raised_and_pillows_own_is_kept(large, tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    with open_image(large, max_pixels=12_000**2) as image:
        assert image.size == (12_000, 12_000)
    Image.new("RGB", (20, 10), (1, 2, 3)).save(tmp_path / "small.png")
    assert read_image(tmp_path / "small.png", "BGR", max_pixels=200)[0, 0].tolist() == [3, 2, 1]
    with pytest.raises(ValueError, match=r"20 x 10 = 200 pixels, the limit is 199 \(max_pixels"):
        read_image(tmp_path / "small.png", "BGR", max_pixels=199)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_pipe_a_device_and_a_format_of_another_program_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "eps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    folder = ImageFolder(tmp_path, follow_links=True)
    for name, message in (("pipe", "pipe, device"), ("zero", "pipe, device")):
        waiting = threading.Timer(5, os._exit, [1])  # a pipe would wait for its writer
        waiting.start()
        with pytest.raises(ValueError, match=message):
            folder.read(tmp_path / f"{name}.png")
        waiting.cancel()
    with pytest.raises(ValueError, match=r"eps\.jpg is EPS: convert"):
        folder.read(tmp_path / "eps.jpg")


@pytest.mark.parametrize(
    ("name", "links", "inside"),
    [
        ("a.png", False, True),
        ("sub/../a.png", False, True),
        ("http://example.com/a.png", False, None),
        ("../b.png", True, False),
        ("sub/../../b.png", True, False),
        ("{other}/b.png", True, False),
        ("link.png", False, False),
        ("link.png", True, True),
        ("linked/b.png", False, False),
        ("linked/b.png", True, True),
        ("linked/../a.png", True, True),  # by name, as it would not be by the link
        ("back/a.png", False, True),
    ],
)
def test_images_are_read_from_inside_the_folder_unless_links_may_lead_out(
    name, links, inside, tmp_path
):
    root, other = tmp_path / "images", tmp_path / "other"
    (root / "sub").mkdir(parents=True)
    other.mkdir()
    for path, color in ((root / "a.png", 10), (other / "b.png", 20), (tmp_path / "b.png", 30)):
        Image.fromarray(np.full((4, 4, 3), color, np.uint8)).save(path)
    Image.fromarray(np.full((4, 4, 3), 40, np.uint8)).save(tmp_path / "a.png")
    (root / "link.png").symlink_to(other / "b.png")
    (root / "linked").symlink_to(other)
    (root / "back").symlink_to(root)
    folder = ImageFolder(root, follow_links=links)
    path = os.path.join(root, name.format(other=other))
    if inside is None:
        with pytest.raises(OSError, match="No such file"):
            folder.read(path)
    elif inside:
        assert folder.read(path)[0, 0, 0] == (10 if "a.png" in name else 20)
    else:
        hint = "follow-links" if "link" in name else "alone are shown$"
        with pytest.raises(ValueError, match=hint):
            folder.read(path)
