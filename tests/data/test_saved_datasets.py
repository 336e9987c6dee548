"""Datasets saved beside a config: what they register, and what they refuse."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data import register_longtail_instances
from d2_seesaw.data.saved_datasets import register_saved_datasets, save_datasets
from tests.data import own_data

TRAIN, VAL = "tests_saved_train", "tests_saved_val"


def forget():
    for name in (TRAIN, VAL):
        for known in (DatasetCatalog, MetadataCatalog):
            if name in known:
                known.remove(name)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config whose two datasets were registered with relative paths."""
    monkeypatch.chdir(tmp_path)
    own_data.write(tmp_path)
    for name, counts_from in ((TRAIN, None), (VAL, TRAIN)):
        register_longtail_instances(
            name, json_file="train.json", image_root="images", counts_from=counts_from
        )
    yield tmp_path / "config.yaml"
    forget()


def test_saved_datasets_are_registered_again_with_those_that_they_count(config, monkeypatch):
    before = MetadataCatalog.get(VAL).class_image_count
    save_datasets({"test": {"names": [VAL, "quickstart_val", "coco_2017_val"]}}, config)
    forget()
    monkeypatch.chdir("/")
    assert register_saved_datasets(config) == [TRAIN, VAL]
    assert MetadataCatalog.get(VAL).class_image_count == before
    assert len(DatasetCatalog.get(VAL)) == 4


def test_a_registered_name_wins(config):
    save_datasets([TRAIN], config)
    forget()
    register_longtail_instances(TRAIN, json_file="other.json", image_root="images")
    assert register_saved_datasets(config) == []
    assert MetadataCatalog.get(TRAIN).json_file == "other.json"


def test_a_config_without_own_datasets_has_no_file(config):
    save_datasets([TRAIN], config)
    save_datasets(["quickstart_val", 3, None], config)
    assert register_saved_datasets(config) == []
    assert not config.with_name("config.datasets.json").exists()


@pytest.mark.parametrize(
    "text", ["[", "[1]", '{"a": 1}', json.dumps({TRAIN: {"json_file": 1, "image_root": "x"}})]
)
def test_a_damaged_file_is_refused(config, text):
    config.with_name("config.datasets.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.datasets.json is not a file of saved datasets"):
        register_saved_datasets(config)
