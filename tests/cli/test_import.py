"""`d2-seesaw import`: every format by its command, what it prints, and one-line errors."""

import json
from typing import Any

import pytest

from d2_seesaw import cli
from tests.data.importers.sources import H, W, add_images, square, write_json

SHAPE = {"label": "cat", "points": square(10, 10, 20), "shape_type": "rectangle"}
BOX = "<xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>30</ymax>"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The same object of 20 x 20 pixels in each format."""
    monkeypatch.chdir(tmp_path)
    add_images(tmp_path, "yolo/images/a.jpg", "labelme/a.jpg", "voc/a.jpg", "coco/a.jpg")
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("0 0.2 0.25 0.2 0.25\n")
    (tmp_path / "yolo/data.yaml").write_text("train: images\nnames: [cat]\n")
    write_json(tmp_path / "labelme/a.json", {"shapes": [SHAPE], "imagePath": "a.jpg"})
    (tmp_path / "voc/a.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{BOX}</bndbox></object></annotation>"
    )
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": W, "height": H}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write_json(tmp_path / "coco/a.json", coco)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    return tmp_path


def run(*arguments) -> Any:
    try:
        return cli.main(["import", *map(str, arguments)])
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("name", ["yolo", "labelme", "voc", "coco"])
def test_every_format_gives_a_file_that_check_passes(sources, capsys, name):
    assert run(name, name, "--output", "out/train.json") == 0
    summary, command = capsys.readouterr().out.splitlines()
    assert summary == (
        "out/train.json: 1 images (0 without objects), 1 objects (0 with masks), 1 categories"
    )
    content = json.loads((sources / "out/train.json").read_text())
    assert [a["bbox"] for a in content["annotations"]] == [[10, 10, 20, 20]]
    assert content["categories"] == [{"id": 1, "name": "cat"}]
    assert command.startswith("check it: d2-seesaw check out/train.json ")
    assert cli.main(command.removeprefix("check it: d2-seesaw ").split()) == 0


@pytest.mark.parametrize("name", ["yolo", "labelme", "voc"])
def test_classes_and_the_folder_of_images_are_passed_on(sources, name):
    options = ("--classes", "names.txt", "--images", name, "--output", "train.json")
    assert run(name, name, *options) == 0
    content = json.loads((sources / "train.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]
    expected = "images/a.jpg" if name == "yolo" else "a.jpg"
    assert content["images"][0]["file_name"] == expected


def test_options_of_rotated_boxes_and_masks_are_passed_on(sources, capsys):
    write_json(
        sources / "labelme/a.json",
        {
            "shapes": [
                {**SHAPE, "points": square(10, 10, 20), "shape_type": "oriented_rectangle"},
                {**SHAPE, "points": square(50, 10, 20), "shape_type": "polygon"},
            ]
        },
    )
    output = ("--output", "train.json")
    assert "--enclose-rotated" in run("labelme", "labelme", *output)
    assert "--boxes-only" in run("labelme", "labelme", "--enclose-rotated", *output)
    for masks in ("--boxes-only", "--boxes-as-masks"):
        options = (*output, "--overwrite", "--enclose-rotated", masks)
        assert run("labelme", "labelme", *options) == 0
    assert "(0 with masks)" in (printed := capsys.readouterr().out)
    assert "(2 with masks)" in printed


def test_an_output_that_exists_is_replaced_on_request_only(sources):
    source = sources / "coco/a.json"
    before = source.read_text()
    assert "--overwrite replaces it" in run("coco", source, "--output", source)
    assert source.read_text() == before
    assert run("coco", source, "--output", source, "--overwrite") == 0
    assert source.read_text() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yolo", "nowhere"), "nowhere does not exist"),
        (("yolo", "yolo", "--split", "val"), "has no split 'val'"),
        (("yolo", "yolo/data.yaml", "--images", "voc"), "not below voc: give --images FOLDER"),
        (("voc", "voc", "--split", "train"), "train.txt"),
        (("labelme", "nowhere"), "nowhere does not exist"),
        (("coco", "nowhere.json"), "nowhere.json"),
        (("coco", "names.txt"), "names.txt is not valid JSON"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(sources, arguments, message):
    error = run(*arguments, "--output", "train.json")
    assert error.startswith(f"d2-seesaw import {arguments[0]}: ")
    assert message in error
    assert "\n" not in error
    assert not (sources / "train.json").exists()
