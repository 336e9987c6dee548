import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data import check_dataset_files, load_dataset, register_longtail_instances

NAME = "tests_datasets_tiny"


@pytest.fixture
def tiny(tmp_path):
    """Register two images, one of them empty, with unordered categories."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.jpg").touch()
    size = {"width": 8, "height": 8, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
    annotations = {
        "images": [{"id": i, "coco_url": f"train/{i}.jpg", **size} for i in (1, 2)],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 4, 4],
                "area": 8,
                "segmentation": [[0, 0, 4, 0, 4, 4]],
            }
        ],
        "categories": [{"id": 2, "name": "second"}, {"id": 1, "name": "first"}],
    }
    (tmp_path / "lvis.json").write_text(json.dumps(annotations))
    register_longtail_instances(NAME, json_file=tmp_path / "lvis.json", image_root=tmp_path)
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_any_name_loads_with_class_names_from_the_file(tiny):
    (record,) = load_dataset(NAME)
    assert record["file_name"] == str(tiny / "train" / "1.jpg")
    assert record["annotations"][0]["category_id"] == 0
    assert record["neg_category_ids"] == [2]
    assert MetadataCatalog.get(NAME).thing_classes == ["first", "second"]


def test_images_without_objects_are_kept_for_evaluation(tiny):
    assert len(load_dataset(NAME, filter_empty=False)) == 2


def test_missing_files_are_listed_beside_existing_ones(tiny):
    (tiny / "lvis.json").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_dataset(NAME)
    assert f"MISSING  {tiny / 'lvis.json'}" in str(error.value)
    assert f"found    {tiny}" in str(error.value)


def test_a_missing_folder_of_images_is_reported(tiny):
    (tiny / "train" / "1.jpg").unlink()
    (tiny / "train").rmdir()
    with pytest.raises(FileNotFoundError, match=f"do not exist: \\['{tiny / 'train'}'\\]"):
        load_dataset(NAME)


@pytest.mark.skipif(
    os.path.exists(MetadataCatalog.get("lvis_v1_train").json_file), reason="LVIS v1 is installed"
)
def test_lvis_without_data_lists_every_file_once():
    with pytest.raises(FileNotFoundError) as error:
        check_dataset_files(["lvis_v1_train", "lvis_v1_val"])
    message = str(error.value)
    for place in ("lvis_v1_train.json", "lvis_v1_val.json", "coco/train2017", "coco/val2017"):
        assert message.count(place) == 1
    assert "DETECTRON2_DATASETS" in message
    assert "lvisdataset.org" in message


def test_an_unknown_name_is_reported_with_the_closest_one():
    with pytest.raises(
        ValueError, match="'lvis_v1_trian' is not registered; did you mean 'lvis_v1_t"
    ):
        check_dataset_files("lvis_v1_trian")


CITYSCAPES = "cityscapes_fine_sem_seg_val"


@pytest.fixture
def cityscapes(tmp_path, monkeypatch):
    """Create the folders of Cityscapes that Detectron2 expects, without trainId labels."""
    folders = {"image_dir": "leftImg8bit/val", "gt_dir": "gtFine/val"}
    places = {key: str(tmp_path / "cityscapes" / folder) for key, folder in folders.items()}
    for key, place in places.items():
        os.makedirs(os.path.join(place, "bonn"))
        monkeypatch.setitem(MetadataCatalog.get(CITYSCAPES).__dict__, key, place)
    (tmp_path / "cityscapes/gtFine/val/bonn/a_gtFine_labelIds.png").touch()
    return tmp_path / "cityscapes"


def test_cityscapes_without_data_names_its_folders_and_their_source(cityscapes):
    (cityscapes / "leftImg8bit/val/bonn").rmdir()
    (cityscapes / "leftImg8bit/val").rmdir()
    with pytest.raises(FileNotFoundError) as error:
        check_dataset_files(CITYSCAPES)
    assert f"MISSING  {cityscapes}/leftImg8bit/val" in str(error.value)
    assert f"found    {cityscapes}/gtFine/val" in str(error.value)
    assert "https://www.cityscapes-dataset.com" in str(error.value)


def test_missing_cityscapes_train_ids_are_reported_with_the_command_that_creates_them(cityscapes):
    with pytest.raises(FileNotFoundError, match=r"has no \*_labelTrainIds\.png") as error:
        check_dataset_files(CITYSCAPES)
    assert f"CITYSCAPES_DATASET={cityscapes} csCreateTrainIdLabelImgs" in str(error.value)
    (cityscapes / "gtFine/val/bonn/a_gtFine_labelTrainIds.png").touch()
    check_dataset_files(CITYSCAPES)


@pytest.mark.parametrize(
    ("name", "places", "source"),
    [
        (
            "synthia_seqs_05_summer_train",
            [
                f"SYNTHIA-SEQS-05-SUMMER/{part}/Stereo_{side}/Omni_{view}"
                for part in ("RGB", "GT/LABELS")
                for side in ("Left", "Right")
                for view in "FBLR"
            ],
            "SYNTHIA-SEQS-05-SUMMER: https://synthia-dataset.net",
        ),
        (
            "synthia_rand_cityscapes_val",
            ["RAND_CITYSCAPES/RGB", "RAND_CITYSCAPES/GT/LABELS"],
            "unpacked as RAND_CITYSCAPES",
        ),
        (
            "semantic_quickstart_train",
            ["semantic_quickstart/images/train", "semantic_quickstart/labels/train"],
            "generate it: d2-seesaw generate semantic",
        ),
        (
            "ade20k_sem_seg_val",
            ["images/validation", "annotations_detectron2/validation"],
            "prepare_ade20k_sem_seg.py",
        ),
    ],
)
def test_missing_semantic_data_name_every_folder_and_how_to_get_them(name, places, source):
    metadata = MetadataCatalog.get(name)
    if os.path.exists(metadata.sem_seg_root):
        pytest.skip(f"{name} is installed")
    with pytest.raises(FileNotFoundError) as error:
        check_dataset_files(name)
    message = str(error.value)
    for place in places:
        assert message.count(f"{place}\n") == 1
    assert message.count("MISSING") == len(places)
    assert source in message
    assert message.count("\nDETECTRON2_DATASETS") == 1
    assert len(message.splitlines()) == len(places) + 3
