"""Options of a start from other classes, as the config gives them."""

import json

import pytest
from omegaconf import OmegaConf

from d2_seesaw.engine.train_options import train_options
from d2_seesaw.inference.class_names import class_transfer


def options(**changes):
    return OmegaConf.create({"train": train_options(**changes)})


def test_nothing_is_transferred_by_default():
    assert class_transfer(options(), ["a"]) is None


def test_aliases_and_class_names_are_those_of_the_config(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\ufeffcat\n\n dog \n", encoding="utf-8")
    annotations = tmp_path / "train.json"
    categories = [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}]
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}
    box = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 2, 2]}
    annotations.write_text(
        json.dumps({"images": [image], "annotations": [box], "categories": categories})
    )
    for source in (names, annotations):
        found = class_transfer(
            options(
                class_transfer="by_name",
                checkpoint_classes=str(source),
                class_aliases={"tabby": "cat"},
            ),
            ["tabby"],
        )
        assert found.checkpoint_names == ["cat", "dog"]
        assert found.checkpoint_names_from == str(source)
        assert found.aliases == {"tabby": "cat"}


def test_a_registered_dataset_gives_its_class_names():
    chosen = options(class_transfer="by_name", checkpoint_classes="voc_2007_trainval")
    assert class_transfer(chosen, ["a"]).checkpoint_names[:2] == ["aeroplane", "bicycle"]


@pytest.mark.parametrize(
    ("changes", "names", "error"),
    [
        ({"class_transfer": "by_id"}, ["a"], "must be null or 'by_name', got 'by_id'"),
        ({"class_transfer": True}, ["a"], "got True"),
        ({"class_aliases": ["a"]}, ["a"], "must hold OWN_NAME: NAME_IN_THE_CHECKPOINT"),
        ({"class_transfer": "by_name"}, None, "needs class names, which the training split"),
        (
            {"class_transfer": "by_name", "checkpoint_classes": "nowhere.txt"},
            ["a"],
            "'nowhere.txt' is neither a file nor a registered dataset",
        ),
    ],
)
def test_a_wrong_option_is_refused(changes, names, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        class_transfer(options(**changes), names)
