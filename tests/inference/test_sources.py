import cv2
import numpy as np
import pytest
from PIL import Image

from d2_seesaw.inference.sources import (
    UnreadableError,
    VideoFrames,
    find_sources,
    read_picture,
)
from tests.data.own_data import content, write


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_folders_yield_their_pictures_and_videos_in_order_at_any_depth(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.webp", "sub/clip.mp4"):
        touch(tmp_path / "in" / name)
    found = find_sources([tmp_path / "in", touch(tmp_path / "z.bmp")], tmp_path / "out")
    assert [s.name for s in found] == ["a.PNG", "b.jpg", "sub/c.webp", "sub/clip.mp4", "z.bmp"]
    assert [s.is_video for s in found] == [False, False, False, True, False]


def test_files_are_recognized_by_suffix_in_any_case(tmp_path):
    touch(tmp_path / "in/CLIP.MP4")
    touch(tmp_path / "in/folder.png/b.JPG")
    found = find_sources([tmp_path / "in"], tmp_path / "out")
    assert [(s.name, s.is_video) for s in found] == [
        ("CLIP.MP4", True),
        ("folder.png/b.JPG", False),
    ]


def test_earlier_results_inside_the_folder_are_left_out(tmp_path):
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "out/a.jpg")
    assert [s.name for s in find_sources([tmp_path], tmp_path / "out")] == ["a.jpg"]
    # Earlier results are used if they are given explicitly.
    touch(tmp_path / "out/in/b.jpg")
    assert [s.name for s in find_sources([tmp_path / "out/in"], tmp_path / "out")] == ["b.jpg"]


def test_annotations_choose_the_pictures_of_a_folder(tmp_path):
    data = content()
    json_file = write(tmp_path, data)
    touch(tmp_path / "images/part/7.png")
    touch(tmp_path / "images/part/3.jpg")  # would have results of the same name
    found = find_sources([tmp_path / "images"], tmp_path / "out", images_of=json_file)
    assert [s.name for s in found] == [f"part/{i}.png" for i in (12, 3, 5, 90)]
    (tmp_path / "images/part/90.png").unlink()
    missing = "1 of 4 images of .*train.json are not pictures in .*images, such as .*part/90.png"
    with pytest.raises(ValueError, match=missing):
        find_sources([tmp_path / "images"], tmp_path / "out", images_of=json_file)
    with pytest.raises(ValueError, match=r"are looked for in one folder, got .*12.png"):
        find_sources([tmp_path / "images/part/12.png"], tmp_path / "out", images_of=json_file)


def test_results_never_overwrite_the_inputs(tmp_path):
    touch(tmp_path / "a.jpg")
    for given in (tmp_path, tmp_path / "a.jpg"):
        with pytest.raises(ValueError, match="could overwrite it"):
            find_sources([given], tmp_path)


def test_an_output_that_is_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"out.txt' is not a folder"):
        find_sources([touch(tmp_path / "a.jpg")], touch(tmp_path / "out.txt"))


def test_two_files_of_one_name_are_refused(tmp_path):
    one, other = touch(tmp_path / "x/a.jpg"), touch(tmp_path / "y/a.png")
    with pytest.raises(ValueError, match=r"x/a.jpg and .*y/a.png would have results of the same"):
        find_sources([one, other], tmp_path / "out")
    assert len(find_sources([one, one], tmp_path / "out")) == 1
    upper = touch(tmp_path / "z/A.png")  # the same name if case is ignored
    with pytest.raises(ValueError, match="would have results of the same name"):
        find_sources([one, upper], tmp_path / "out")


def test_missing_files_and_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.jpg does not exist"):
        find_sources([tmp_path / "nowhere.jpg"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"notes.txt has none of the supported suffixes: .*\.jpg"):
        find_sources([touch(tmp_path / "notes.txt")], tmp_path / "out")
    with pytest.raises(ValueError, match="no picture or video"):
        find_sources([tmp_path], tmp_path / "out")


def test_pictures_are_rotated_by_their_exif_orientation(tmp_path):
    """Rotate orientation 6 clockwise: the first column, bottom first, becomes the top row."""
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    rotated = np.rot90(pixels, k=-1)
    assert np.array_equal(read_picture(tmp_path / "a.png", "RGB"), rotated)
    assert np.array_equal(read_picture(tmp_path / "a.png", "BGR"), rotated[:, :, ::-1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_kind_have_three_channels(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    (path,) = tmp_path.iterdir()
    assert read_picture(path, "BGR").shape == (4, 5, 3)


def test_damaged_pictures_are_reported_as_unreadable_by_name(tmp_path):
    whole = tmp_path / "a.jpg"
    Image.fromarray(np.random.randint(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "half.jpg").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "text.png").write_text("no picture")
    # Detectron2's reader alone would accept these after a first failed attempt.
    for mode in ("RGB", "P"):
        png = tmp_path / f"whole_{mode}.png"
        Image.open(whole).convert(mode).save(png)
        content = png.read_bytes()
        (tmp_path / f"half_{mode}.png").write_bytes(content[:-900])
        flipped = bytes([content[1000] ^ 0xFF])
        (tmp_path / f"flip_{mode}.png").write_bytes(content[:1000] + flipped + content[1001:])
    (tmp_path / "empty.png").touch()
    kinds = [f"{damage}_{mode}.png" for damage in ("half", "flip") for mode in ("RGB", "P")]
    for name in ("half.jpg", *kinds, "text.png", "empty.png", "nowhere.png"):
        with pytest.raises(UnreadableError, match=f"{name} cannot be read"):
            read_picture(tmp_path / name, "BGR")


def test_a_picture_above_the_limit_of_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (50, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit does not count
    assert read_picture(path, max_pixels=2000).shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    message = r"a.png has 50 x 40 = 2,000 pixels, the limit is 1,999 \(max_pixels, --max-pixels"
    with pytest.raises(UnreadableError, match=message):
        read_picture(path, max_pixels=1999)


def test_a_video_above_the_limit_of_pixels_is_refused(video):
    with pytest.raises(UnreadableError, match=r"32 x 16 = 512 pixels, the limit is 511"):
        VideoFrames(video, max_pixels=511)


@pytest.fixture
def video(tmp_path):
    """Write four uniform frames, blue as BGR, which get brighter."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (32, 16))
    for brightness in (60, 120, 180, 240):
        writer.write(np.full((16, 32, 3), (brightness, 0, 0), np.uint8))
    writer.release()
    return path


def test_videos_give_their_frames_in_bgr(video):
    frames = VideoFrames(video)
    assert (frames.fps, frames.announced) == (8.0, 4)
    for _ in range(2):  # it can be read again
        seen = np.stack(list(frames))
        assert seen.shape == (4, 16, 32, 3)
        means = seen.mean(axis=(1, 2))
        assert np.abs(means[:, 0] - [60, 120, 180, 240]).max() < 8
        assert means[:, 2].max() < 8


def test_other_files_are_not_read_as_videos(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UnreadableError, match=r"a.mp4 cannot be read as a video"):
        VideoFrames(tmp_path / "a.mp4")


class NoFrames:
    """Fake of OpenCV's capture of a video without frames."""

    def __init__(self, _):
        pass

    def isOpened(self):  # noqa: N802
        return True

    def get(self, _):
        return 0.0

    def read(self):
        return False, None

    def release(self):
        pass


def test_a_video_without_a_rate_has_25_frames_per_second(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", NoFrames)
    frames = VideoFrames("clip.avi")
    assert (frames.fps, frames.announced) == (25.0, 0)


def test_a_video_without_a_frame_is_unreadable(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", NoFrames)
    with pytest.raises(UnreadableError, match=r"clip.avi has no readable frame"):
        list(VideoFrames("clip.avi"))


def test_pictures_of_more_than_8_bits_are_refused_because_they_would_be_clipped(tmp_path):
    gray = np.full((20, 30), 40_000, np.uint16)
    cv2.imwrite(str(tmp_path / "gray.png"), gray)
    with pytest.raises(UnreadableError, match=r"more than 8 bits a channel \(mode I;16\)"):
        read_picture(tmp_path / "gray.png")
