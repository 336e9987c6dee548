"""Files that can be cut-outs and backgrounds, and those that are left out."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.synthetic.cutouts import pictures as reading
from d2_seesaw.synthetic.cutouts.pictures import (
    LeftOut,
    UnusablePictureError,
    choose_by_patterns,
    find_pictures,
    read_background,
    read_cutout,
    without_vector_graphics,
)
from tests.synthetic.cutouts.conftest import ellipse, save

PICTURE = ellipse((200, 100, 50))
CROPPED = PICTURE[1:29, 1:39]


def opaque(pixels):
    return pixels[..., 3] >= 128


@pytest.mark.parametrize("name", ["a.png", "a b.webp", "ü.tif", "名.gif"])
def test_formats_with_transparency_give_the_same_mask(tmp_path, name):
    save(tmp_path / name, PICTURE, **({"lossless": True} if name.endswith("webp") else {}))
    expected, _ = read_cutout_of(tmp_path, PICTURE)
    pixels, _ = read_cutout(tmp_path / name, 100)
    np.testing.assert_array_equal(opaque(pixels), opaque(expected))
    assert np.abs(pixels.astype(int) - expected)[opaque(pixels)].max() <= 8  # GIF has a palette


def read_cutout_of(folder, array):
    save(folder / "reference.png", array)
    return read_cutout(folder / "reference.png", 100)


def test_palettes_gray_and_color_keys_carry_transparency(tmp_path):
    expected, _ = read_cutout_of(tmp_path, PICTURE)
    gray = np.dstack([PICTURE[..., 0], PICTURE[..., 3]])
    Image.fromarray(gray).save(tmp_path / "gray.png")
    palette = Image.fromarray((PICTURE[..., 3] > 0).astype(np.uint8), "L").convert("P")
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.fromarray(PICTURE[..., :3]).save(tmp_path / "key.png", transparency=(0, 0, 0))
    for name in ("gray", "palette", "key"):
        pixels, _ = read_cutout(tmp_path / f"{name}.png", 100)
        np.testing.assert_array_equal(opaque(pixels), opaque(expected))


def test_sixteen_bits_are_reduced_to_eight_instead_of_clipped(tmp_path):
    levels = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "gray.png")
    pixels, _ = read_background(tmp_path / "gray.png", (64, 64))
    np.testing.assert_array_equal(pixels[..., 0], levels >> 8)


def test_what_sixteen_bits_do_not_give_is_the_reason(tmp_path):
    levels = np.pad(np.full((20, 20), 30_000, np.uint16), 9)
    Image.fromarray(levels).save(tmp_path / "keyed.png", transparency=0)
    Image.fromarray(levels).save(tmp_path / "plain.png")
    Image.fromarray(levels.astype(np.int32) * 9).save(tmp_path / "integers.tif")
    Image.fromarray(levels.astype(np.float32) / 65535).save(tmp_path / "floats.tif")
    reasons = {"keyed.png": "its transparent color has 16 bits", "plain.png": "without transp"}
    reasons |= {"integers.tif": r"16 bits .*mode I\)", "floats.tif": r"16 bits .*mode F\)"}
    for name, reason in reasons.items():
        with pytest.raises(UnusablePictureError, match=reason):
            read_cutout(tmp_path / name, 64)
        if name.endswith("tif"):
            with pytest.raises(UnusablePictureError, match=reason):
                read_background(tmp_path / name, (64, 64))
    assert (read_background(tmp_path / "keyed.png", (64, 64))[0].max(2) == levels >> 8).all()


def test_the_visible_part_is_cropped_and_reduced_to_the_wanted_side(tmp_path):
    framed = np.pad(PICTURE, ((9, 20), (30, 5), (0, 0)))
    save(tmp_path / "framed.png", framed)
    pixels, _ = read_cutout(tmp_path / "framed.png", 1000)
    left, top, right, bottom = reading.mask_box(PICTURE[..., 3])
    np.testing.assert_array_equal(pixels, PICTURE[top:bottom, left:right])
    reduced, _ = read_cutout(tmp_path / "framed.png", 19)
    assert max(reduced.shape[:2]) == 19


def test_mirrored_pictures_and_hidden_colors_have_the_same_identity(tmp_path):
    mirrored = PICTURE[:, ::-1].copy()
    mirrored[mirrored[..., 3] == 0] = (7, 8, 9, 0)
    changed = PICTURE.copy()
    changed[15, 20, 0] += 1
    names = {"first": PICTURE, "mirrored": mirrored, "changed": changed}
    for name, pixels in names.items():
        save(tmp_path / f"{name}.png", pixels)
    first, second, third = (read_cutout(tmp_path / f"{n}.png", 20)[1] for n in names)
    assert first == second != third


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((20, 20, 3), 9, np.uint8), "without transparency"),
        (np.full((20, 20, 4), 255, np.uint8), "without transparency"),
        (np.full((20, 20, 4), 100, np.uint8), "fewer than 64 opaque pixels"),
        (ellipse((1, 2, 3), (8, 8)), "fewer than 64 opaque pixels"),
    ],
)
def test_unusable_cutouts_say_why(tmp_path, pixels, reason):
    save(tmp_path / "a.png", pixels)
    with pytest.raises(UnusablePictureError, match=reason):
        read_cutout(tmp_path / "a.png", 100)


def test_damaged_and_huge_files_say_why(tmp_path, monkeypatch):
    save(tmp_path / "a.png", PICTURE)
    data = (tmp_path / "a.png").read_bytes()
    for content in (b"", b"text", data[: len(data) // 2]):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(UnusablePictureError, match="cannot be read"):
            read_cutout(tmp_path / "b.png", 100)
    monkeypatch.setattr(reading, "_MAX_PIXELS", 1000)
    with pytest.raises(UnusablePictureError, match="million pixels"):
        read_cutout(tmp_path / "a.png", 100)


def test_a_photograph_is_upright_and_reduced(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    save(tmp_path / "a.jpg", np.zeros((300, 400, 3), np.uint8), exif=exif)
    pixels, _ = read_background(tmp_path / "a.jpg", (20, 30))
    assert pixels.shape == (100, 75, 3)  # 2.5 times the scene's width


def test_patterns_choose_whole_paths_and_must_match_something():
    paths = ["a/b.png", "a/cartoon/b.png", "c.png"]
    assert choose_by_patterns(paths, ["a/*"], ["*/cartoon/*"]) == ["a/b.png"]
    with pytest.raises(ValueError, match=r"exclude 'cartoon' matches none of 3 pictures.*a/b\.png"):
        choose_by_patterns(paths, [], ["cartoon"])


def test_a_folder_that_cannot_be_opened_has_a_line(tmp_path, monkeypatch):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "a":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    left_out = LeftOut()
    assert find_pictures(tmp_path, left_out) == ["b/2.png"]
    assert left_out.lines() == ["left out 1 folder: cannot be opened, Permission denied (first: a)"]


def test_hidden_files_are_skipped_and_vector_graphics_reported(tmp_path):
    for name in ("b/2.PNG", "a.png", ".hidden.png", ".git/x.png", "c.svg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    left_out = LeftOut()
    paths = without_vector_graphics(find_pictures(tmp_path, left_out), left_out)
    assert paths == ["a.png", "b/2.PNG"]
    assert left_out.lines() == ["left out 1 picture: vector graphics are not read (first: c.svg)"]
