import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_seesaw.data import (
    InstanceDatasetMapper,
    RandomSampling,
    build_train_loader,
    check_dataset_files,
    load_dataset,
    register_label_maps,
    register_longtail_instances,
)
from tests.data import own_data
from tests.data.own_data import H, W

OWN, LABELED = "tests_stuff_own", "tests_stuff_labeled"


@pytest.fixture
def maps(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    json_file = own_data.write(tmp_path)
    register_longtail_instances(OWN, json_file=json_file, image_root=tmp_path / "images")
    register_label_maps(LABELED, OWN, tmp_path / "maps")
    (tmp_path / "maps").mkdir()
    rng = np.random.default_rng(0)
    maps = {image: rng.choice([0, 5, 255], (H, W)).astype(np.uint8) for image in (12, 3, 5, 90)}
    for image, labels in maps.items():
        Image.fromarray(labels).save(tmp_path / "maps" / f"{image}.png")
    yield maps
    for name in (OWN, LABELED):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_records_are_those_of_the_instances_and_a_map(maps, tmp_path):
    plain, labeled = load_dataset(OWN), load_dataset(LABELED)
    assert len(labeled) == 4
    for before, after in zip(plain, labeled, strict=True):
        image = before["image_id"]
        assert after == before | {"sem_seg_file_name": str(tmp_path / "maps" / f"{image}.png")}
    known = MetadataCatalog.get(LABELED)
    for key in ("thing_classes", "json_file", "evaluator_type", "class_image_count"):
        assert known.get(key) == MetadataCatalog.get(OWN).get(key) is not None


def test_the_training_loader_flips_image_and_map_alike(maps):
    loader = build_train_loader(
        load_dataset(LABELED),
        mapper=InstanceDatasetMapper(
            is_train=True,
            augmentations=[T.RandomFlip(prob=1.0)],
            image_format="RGB",
            use_instance_mask=True,
        ),
        sampling=RandomSampling(seed=0),
        total_batch_size=4,
        num_workers=0,
        aspect_ratio_grouping=False,
    )
    for given in next(iter(loader)):
        expected = np.ascontiguousarray(maps[given["image_id"]][:, ::-1])
        assert given["sem_seg"].dtype == torch.int64
        assert given["sem_seg"].tolist() == expected.tolist()
        assert len(given["instances"]) > 0


def test_a_missing_folder_of_maps_is_reported(maps, tmp_path):
    (tmp_path / "maps").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"MISSING  .*maps"):
        check_dataset_files(LABELED)


def test_a_missing_map_is_reported_before_training(maps, tmp_path):
    (tmp_path / "maps" / "90.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"90\.png"):
        build_train_loader(
            load_dataset(LABELED), mapper=dict, sampling=RandomSampling(), total_batch_size=4
        )


def test_cocos_stuff_maps_are_registered():
    known = MetadataCatalog.get("coco_2017_train_stuffthingmaps")
    assert known.sem_seg_root.endswith("coco/stuffthingmaps/train2017")
    assert known.thing_classes == MetadataCatalog.get("coco_2017_train").thing_classes
    with pytest.raises(FileNotFoundError, match=r"(?s)stuffthingmaps_trainval2017.zip"):
        check_dataset_files("coco_2017_train_stuffthingmaps")


def test_another_folder_under_the_same_name_is_refused(maps, tmp_path):
    register_label_maps(LABELED, OWN, tmp_path / "maps")
    with pytest.raises(ValueError, match=r"already registered with .*maps.*, not .*other"):
        register_label_maps(LABELED, OWN, tmp_path / "other")
