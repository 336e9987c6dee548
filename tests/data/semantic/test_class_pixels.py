"""Label reader and pixel counts for the evaluator of semantic segmentation."""

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data import ClassPixels, LabelReader, register_semantic_folder

LABELS = [np.array([[0, 1, 1], [7, 1, 2]]), np.array([[2, 2, 2], [2, 2, 9]])]


@pytest.fixture
def name(tmp_path, monkeypatch):
    """Register a folder of two images whose label ids differ from the classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index, labels in enumerate(LABELS):
        cv2.imwrite(str(tmp_path / f"images/{index}.png"), np.zeros((2, 3, 3), np.uint8))
        cv2.imwrite(str(tmp_path / f"labels/{index}.png"), labels.astype(np.uint8))
    register_semantic_folder(
        "statistics_test",
        tmp_path / "images",
        tmp_path / "labels",
        classes=["a", "b", "c"],
        label_ids={1: 0, 2: 1, 7: 2},
    )
    yield "statistics_test"
    DatasetCatalog.remove("statistics_test")
    MetadataCatalog.remove("statistics_test")


def test_a_reader_gives_the_classes_of_a_record(name):
    record = DatasetCatalog.get(name)[0]
    expected = [[255, 0, 0], [2, 0, 1]]
    assert LabelReader()(record).tolist() == expected
    assert LabelReader(ignore_label=3)(record).tolist() == [[3, 0, 0], [2, 0, 1]]


@pytest.mark.parametrize("as_list", [False, True])
def test_pixels_of_each_class_are_counted(name, as_list):
    # The first image has 3, 1 and 1 pixels of the classes, the second has 5 of class 1.
    assert ClassPixels([name] if as_list else name)().tolist() == [3, 6, 1]


def test_several_datasets_add_up(name):
    assert ClassPixels([name, name])().tolist() == [6, 12, 2]


def test_counting_does_not_synchronize_the_ranks(name, monkeypatch):
    def no_other_rank():
        raise AssertionError("the other ranks may not take part")

    monkeypatch.setattr("d2_seesaw.data.semantic.pixel_counts.comm.synchronize", no_other_rank)
    ClassPixels(name)()


def test_an_unregistered_dataset_is_reported():
    with pytest.raises(ValueError, match="'semantic_quickstart_trian' is not registered; did you"):
        ClassPixels("semantic_quickstart_trian")()
