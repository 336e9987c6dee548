"""`d2-seesaw generate`: defaults, options, summaries and one-line errors."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.cli.generate import (
    argument_parser,
    classification_spec,
    cutout_sources,
    cutout_spec,
    longtail_spec,
    main,
    semantic_spec,
)
from d2_seesaw.synthetic import ClassificationSpec, LongTailSpec, SemanticSpec
from d2_seesaw.synthetic.cutouts import CutoutSources, CutoutSpec, CutoutStyle
from d2_seesaw.synthetic.profile import LVIS_V1_PROFILE

SPECS = {
    "instances": longtail_spec,
    "semantic": semantic_spec,
    "classification": classification_spec,
}


def parse(*arguments):
    return argument_parser().parse_args([*map(str, arguments)])


def small(kind, root, *arguments):
    sizes = ("--train-images", 3, "--val-images", 2, "--image-size", 64, 96)
    return [kind, "--root", str(root), *map(str, [*sizes, *arguments])]


@pytest.mark.parametrize(
    ("kind", "folder", "default"),
    [
        ("instances", "quickstart", LongTailSpec()),
        ("semantic", "semantic_quickstart", SemanticSpec()),
        ("classification", "classification_quickstart", ClassificationSpec()),
    ],
)
def test_the_defaults_match_the_library(kind, folder, default):
    args = parse(kind)
    assert SPECS[kind](args) == default
    assert args.root.name == folder


def test_every_option_is_passed_on(tmp_path):
    sizes = {"num_train_images": 3, "num_val_images": 2, "image_size": (64, 96), "seed": 5}
    args = parse(*small("semantic", tmp_path, "--seed", 5))
    assert semantic_spec(args) == SemanticSpec(**sizes)
    options = ("--categories", 5, "--objects", 2, 4, "--annotations-only", "--seed", 5)
    options += ("--profile", "lvis_v1", "--not-exhaustive", 0.2)
    args = parse(*small("instances", tmp_path, *options))
    sizes |= {"num_categories": 5, "objects_per_image": (2, 4), "write_images": False}
    sizes |= {"not_exhaustive_probability": 0.2}
    assert longtail_spec(args) == LongTailSpec(**sizes, profile=LVIS_V1_PROFILE)


def test_a_summary_is_printed_and_complete_data_are_not_generated_again(tmp_path, capsys):
    main(small("semantic", tmp_path))
    printed = capsys.readouterr().out
    assert "generated in" in printed
    assert "training    3 images" in printed
    assert "12: sky, road" in printed
    assert len(list((tmp_path / "images/train").iterdir())) == 3
    main(small("semantic", tmp_path))
    assert "complete, nothing to generate" in capsys.readouterr().out


def test_the_files_and_groups_of_instances_are_printed(tmp_path, capsys):
    sizes = ("--train-images", 30, "--val-images", 4, "--categories", 4, "--annotations-only")
    main(["instances", "--root", str(tmp_path), *map(str, sizes)])
    printed = capsys.readouterr().out
    (file,) = [line.split()[1] for line in printed.splitlines() if "training  " in line]
    with open(file) as annotations:
        assert len(json.load(annotations)["images"]) == 30
    assert "categories  4: " in printed


def test_data_with_other_parameters_are_replaced_only_on_request(tmp_path):
    main(small("semantic", tmp_path))
    with pytest.raises(SystemExit, match=r"d2-seesaw generate semantic: .* seed is 0, requested 1"):
        main(small("semantic", tmp_path, "--seed", 1))
    main(small("semantic", tmp_path, "--seed", 1, "--overwrite"))


def test_a_size_out_of_range_is_a_one_line_error(tmp_path):
    with pytest.raises(SystemExit, match="semantic: num_train_images must be at least 1"):
        main(small("semantic", tmp_path, "--train-images", 0))


def test_pictures_are_generated_and_described(tmp_path, capsys):
    options = ("--classes", 3, "--most", 5, "--fewest", 2, "--val-images", 1, "--seed", 4)
    arguments = ["classification", "--root", tmp_path, "--image-size", 24, 32, *options]
    expected = ClassificationSpec(3, 5, 2, 1, (24, 32), 4)
    assert classification_spec(parse(*arguments)) == expected
    main([*map(str, arguments)])
    assert len(list(tmp_path.glob("train/*/*.jpg"))) == sum(expected.train_counts()) == 10
    text = capsys.readouterr().out
    assert f"{tmp_path / 'train.txt'}: 10 pictures" in text
    assert "3, with 2 to 5 training pictures" in text


@pytest.fixture
def stamps(tmp_path):
    for number in range(5):
        pixels = np.zeros((30, 40, 4), np.uint8)
        pixels[5:25, 5 : 30 + number] = (40 * number, 90, 160, 255)
        path = tmp_path / "stamps" / ("red", "blue")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    Image.new("RGB", (40, 30)).save(tmp_path / "stamps/red/photo.png")
    return tmp_path / "stamps"


def test_cutouts_have_the_defaults_of_the_library_and_pass_every_option_on(stamps):
    args = parse("cutouts", "--cutouts", stamps)
    assert cutout_spec(args) == CutoutSpec()
    assert cutout_sources(args) == CutoutSources(stamps)
    chosen = ("--backgrounds", stamps, "--include", "a*", "--exclude", "b*", "--exclude", "c*")
    chosen += ("--exclude-backgrounds", "d*", "--category-depth", 2)
    counts = ("--train-images", 3, "--val-images", 2, "--objects", 1, 4, "--seed", 5)
    groups = ("--scenes", 3, "--scene-strength", 0.5, "--profile", "lvis_v1", "--held-out", 0.4)
    groups += ("--not-exhaustive", 0)
    looks = ("--image-size", 64, 96, "--scale", 0.1, 0.3, "--rotation", 9, "--no-flip")
    looks += ("--light", 0.5, "--blur", 0.2, "--min-visible", 0.6, "--frequencies", "cutouts")
    args = parse("cutouts", "--cutouts", stamps, *chosen, *counts, *groups, *looks)
    assert cutout_sources(args) == CutoutSources(
        stamps,
        backgrounds=stamps,
        category_depth=2,
        include=("a*",),
        exclude=("b*", "c*"),
        exclude_backgrounds=("d*",),
    )
    style = CutoutStyle((0.1, 0.3), max_rotation=9, flip=False, light=0.5, blur=0.2)
    assert cutout_spec(args) == CutoutSpec(
        num_train_images=3,
        num_val_images=2,
        image_size=(64, 96),
        objects_per_image=(1, 4),
        seed=5,
        profile=LVIS_V1_PROFILE,
        frequencies="cutouts",
        held_out=0.4,
        scenes=3,
        scene_strength=0.5,
        not_exhaustive_probability=0,
        style=CutoutStyle(**{**vars(style), "min_visible_share": 0.6}),
    )


def test_a_profile_is_a_name_or_a_table(stamps, tmp_path, capsys):
    table = tmp_path / "images.csv"
    table.write_text("category,images\nred,4\ngreen,2\n")
    args = parse("cutouts", "--cutouts", stamps, "--profile", table)
    assert cutout_spec(args).profile.counts == {"red": 4, "green": 2}
    arguments = small("cutouts", tmp_path / "data", "--cutouts", stamps, "--profile", "lvis")
    with pytest.raises(SystemExit) as error:
        main(list(map(str, arguments)))
    assert str(error.value) == (
        "d2-seesaw generate cutouts: --profile lvis: expected cutouts, demo, lvis_v1 or a CSV "
        "file, and there is no such file"
    )


def test_cutouts_are_described_and_their_hash_is_compared(stamps, tmp_path, capsys):
    root = tmp_path / "data"
    arguments = small("cutouts", root, "--cutouts", stamps, "--processes", 1, "--light", 0)
    main(arguments)
    text = capsys.readouterr().out
    assert "left out 1 picture: without transparency (first: red/photo.png)" in text
    assert "categories  2: " in text
    assert "3 in training, 2 others in validation" in text
    assert "  objects     training: 1 of 3 images have no object, 1 have fewer than 2\n" in text
    hashes = re.findall("[0-9a-f]{64}", text)
    assert len(set(hashes)) == 2
    for value in hashes:
        main([*arguments, "--expect-hash", value.upper()])
    with pytest.raises(SystemExit, match=f"has the hash {hashes[0]}.*expected 0123"):
        main([*arguments, "--expect-hash", "0123"])
