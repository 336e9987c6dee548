"""Tests of the comparison of chosen and fixed values by AP."""

import json

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmarks.own_data_ap import (
    Kind,
    flattened,
    last_metrics,
    table,
    without_parts,
    write_fixed,
)
from d2_seesaw.engine import load_config
from d2_seesaw.own_data.config_file import OwnData
from d2_seesaw.own_data.recipes import CPU


@pytest.fixture
def data(tmp_path):
    """Return files of data with three categories."""
    categories = [{"id": i, "name": str(i), "frequency": "f"} for i in (1, 2, 3)]
    content = {"images": [], "annotations": [], "categories": categories}
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    return OwnData(tmp_path / "train.json", tmp_path / "val.json", tmp_path)


def test_the_fixed_values_are_those_of_the_base_config_but_for_the_classes(data, tmp_path):
    cfg = load_config(str(write_fixed(tmp_path / "fixed", data, has_masks=True)))
    base = load_config(CPU)
    assert cfg.model.roi_heads.num_classes == 3
    base.model.roi_heads.num_classes = 3
    for part in ("train", "test"):
        base.dataloader[part].dataset.names = cfg.dataloader[part].dataset.names
    base.train.output_dir = cfg.train.output_dir
    for part in ("model", "dataloader", "optimizer", "lr_multiplier", "train"):
        assert OmegaConf.to_yaml(cfg[part]) == OmegaConf.to_yaml(base[part])


def test_flattened_pictures_keep_width_and_transparency(tmp_path):
    picture = np.zeros((50, 30, 4), np.uint8)
    picture[:25] = (10, 20, 30, 255)
    (tmp_path / "in/animals").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in/animals/cat.png"), picture)
    flat = cv2.imread(
        str(flattened(tmp_path / "in", tmp_path / "out", 5) / "animals/cat.png"),
        cv2.IMREAD_UNCHANGED,
    )
    np.testing.assert_array_equal(flat, picture[::5])


def test_ordinary_data_have_no_federated_fields_and_no_object_without_annotation():
    federated = {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
    image = {"id": 7, "file_name": "7.jpg"}
    ordinary = Kind((), is_federated=False)
    content = without_parts(ordinary, {"images": [image | federated], "annotations": []})
    assert content["images"] == [image]
    partly = image | federated | {"not_exhaustive_category_ids": [1]}
    with pytest.raises(ValueError, match="image 7 has objects without annotation"):
        without_parts(ordinary, {"images": [partly], "annotations": []})


def test_the_steps_of_a_training_are_counted_without_its_evaluation(tmp_path):
    lines = [
        {"iteration": 19, "total_loss": 2.0, "segm/AP": 1.0},
        {"iteration": 39, "total_loss": 1.0},
        {"iteration": 40, "segm/AP": 5.0},
    ]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    steps, metrics = last_metrics(tmp_path)
    assert (steps, metrics["segm/AP"], metrics["total_loss"]) == (40, 5.0, 1.0)


def test_a_row_has_the_scores_of_fixed_and_of_chosen_values():
    runs = {
        "fixed": {"steps": 1200, "minutes": 8.04, "AP": 1.24, "AP50": 2},
        "chosen": {"steps": 600, "minutes": 8, "AP": 3.26, "AP50": 7},
    }
    text = table([{"data": "60 images", "seed": 1, **runs}])
    assert "| 60 images | 1      | 1,200 (8.0)" in text
    assert "| 1.2 (2.0)   | 600 (8.0)" in text
    assert text.rstrip().endswith("| 3.3 (7.0)   |")
