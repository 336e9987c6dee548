"""`d2-seesaw draw`: any category ids, with and without masks, and names in any script."""

import json
import logging

import cv2
import pytest
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.cli import draw
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.inference import drawing
from d2_seesaw.utils.files import write_text
from tests.data.own_data import IDS, NAMES, content, write


@pytest.fixture
def run(tmp_path):
    """A run on data with the ids 7, 40 and 1000, with predictions of each."""
    name = f"drawn_{tmp_path.name}"
    json_file = write(tmp_path)
    register_longtail_instances(name, json_file=json_file, image_root=tmp_path / "images")
    cfg = LazyConfig.load("configs/quickstart/seesaw.py")
    cfg.train.output_dir = str(tmp_path)
    cfg.dataloader.test.dataset.names = name
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    yield tmp_path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def predictions(**extra):
    return [
        {"image_id": 3, "category_id": i, "bbox": [4, 4, 8, 8], "score": 0.9, **extra} for i in IDS
    ]


def save(run, results):
    write_text(run / "inference" / draw.RESULTS, json.dumps(results))


@pytest.mark.parametrize(
    "masks", [{}, {"segmentation": content()["annotations"][2]["segmentation"]}]
)
def test_any_category_ids_are_drawn_with_their_names(run, masks, monkeypatch):
    save(run, predictions(**masks))
    seen = []
    plain = draw.draw_instances

    def spy(image, instances, metadata, scale):
        seen.extend(metadata.thing_classes[i] for i in instances.pred_classes)
        return plain(image, instances, metadata, scale)

    monkeypatch.setattr(draw, "draw_instances", spy)
    draw.main(["--config-file", str(run / "config.yaml"), "--min-side", "48"])
    assert seen == list(NAMES)
    assert cv2.imread(str(run / "pictures/3.png")).shape == (48 + 28, 2 * 64, 3)


def test_unknown_categories_are_one_line(run):
    save(run, [{**predictions()[0], "category_id": 8}])
    with pytest.raises(SystemExit) as end:
        draw.main(["--config-file", str(run / "config.yaml")])
    assert end.value.code == (
        "d2-seesaw draw: the predictions have categories [8], which the test data do not have"
    )


def test_names_that_matplotlibs_font_has_change_no_font():
    assert drawing._fallback_fonts("Abcéßж") == ()


def test_a_font_is_found_by_its_characters_or_its_absence_is_said(caplog, monkeypatch):
    monkeypatch.setattr(drawing, "_lacking", lambda file, text: "" if "Mono" in file else text)
    (own, found) = drawing._fallback_fonts("犬猫")
    assert own == "DejaVu Sans"
    assert "Mono" in found
    monkeypatch.setattr(drawing, "_lacking", lambda file, text: text)
    with caplog.at_level(logging.WARNING):
        assert drawing._fallback_fonts("犬猫鳥") == ()
    assert "No installed font has 3 characters" in caplog.text
