import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data import (
    FrameSplit,
    load_dataset,
    read_labels,
    register_synthia_rand_cityscapes,
    register_synthia_seqs,
)
from d2_seesaw.data.semantic.synthia import CAMERAS, PARTS

NAME = "tests_synthia"

# Published class names by the id in the red channel.
COMMON = [
    *("void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "sign"),
    *("pedestrian", "bicycle"),
]
SEQS = [*COMMON, "lane", "-", "-", "light"]
RAND = [
    *COMMON,
    *("motorcycle", "parking", "work", "light", "terrain", "rider", "truck", "bus", "train"),
    *("wall", "lane"),
]
IGNORED = {"void", "-", "parking", "work", "terrain", "truck", "train"}
SHORT = {"traffic sign": "sign", "traffic light": "light", "lane marking": "lane"}


def write_frame(root, name, number_of_ids):
    """Write an image and 16-bit labels in three channels, with every id once in the red channel."""
    ids = np.arange(number_of_ids, dtype=np.uint16)[None]
    labels = np.stack([0 * ids, 500 + ids, ids], axis=2)
    for folder, picture in (("RGB", labels.astype(np.uint8)), ("GT/LABELS", labels)):
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)


def read_names(record):
    """Return the class name that each id is read as, shortened as above; None if ignored."""
    classes = MetadataCatalog.get(NAME).stuff_classes
    labels = read_labels(record, num_classes=len(classes))[0]
    return [None if label == 255 else SHORT.get(classes[label], classes[label]) for label in labels]


def test_sequences_have_the_published_ids(tmp_path):
    write_frame(tmp_path, "Stereo_Left/Omni_F/000000", len(SEQS))
    register_synthia_seqs(NAME, tmp_path)
    (record,) = load_with_all_camera_folders(tmp_path)
    assert read_names(record) == [None if name in IGNORED else name for name in SEQS]
    assert len(MetadataCatalog.get(NAME).stuff_classes) == 13


def test_all_ids_are_classes_where_asked_for(tmp_path):
    write_frame(tmp_path, "Stereo_Left/Omni_F/000000", len(SEQS) + 1)
    register_synthia_seqs(NAME, tmp_path, all_ids=True)
    (record,) = load_with_all_camera_folders(tmp_path)
    assert read_labels(record, num_classes=16)[0].tolist() == [*range(16), 255]
    names = [SHORT.get(n, n) for n in MetadataCatalog.get(NAME).stuff_classes]
    assert [n for n in names if not n.startswith("reserved")] == [n for n in SEQS if n != "-"]


def load_with_all_camera_folders(root):
    for camera in CAMERAS:
        for folder in ("RGB", "GT/LABELS"):
            (root / folder / camera).mkdir(parents=True, exist_ok=True)
    return load_dataset(NAME)


def test_rand_cityscapes_has_the_16_classes_of_cityscapes(tmp_path):
    write_frame(tmp_path, "0000000", len(RAND))
    register_synthia_rand_cityscapes(NAME, tmp_path)
    (record,) = load_dataset(NAME)
    unused = IGNORED | {"lane"}
    expected = [None if name in unused else name.replace("pedestrian", "person") for name in RAND]
    assert read_names(record) == expected
    assert MetadataCatalog.get(NAME).stuff_classes == [
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
        *("traffic sign", "vegetation", "sky", "person", "rider", "car", "bus"),
        *("motorcycle", "bicycle"),
    ]


def test_all_eight_cameras_are_used_by_default(tmp_path):
    for camera in CAMERAS:
        for frame in range(10):
            write_frame(tmp_path, f"{camera}/{frame:06d}", 4)
    register_synthia_seqs(NAME, tmp_path, split=FrameSplit("train", stretches=1))
    assert len(load_dataset(NAME)) == 8 * 7
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)
    register_synthia_seqs(NAME, tmp_path, cameras=["Stereo_Left/Omni_F"])
    records = load_dataset(NAME)
    assert len(records) == 10
    assert all("RGB/Stereo_Left/Omni_F" in record["file_name"] for record in records)


def test_camera_names_are_their_folder_names():
    views = {f"Stereo_{s}/Omni_{v}" for s in ("Left", "Right") for v in "FBLR"}
    assert set(CAMERAS) == views


@pytest.mark.parametrize(
    "name",
    ["synthia_seqs_05_summer", "synthia_seqs_05_summer_authors", "synthia_rand_cityscapes"],
)
def test_every_part_is_registered(name):
    for part in PARTS:
        metadata = MetadataCatalog.get(f"{name}_{part}")
        assert f"{name}_{part}" in DatasetCatalog.list()
        assert metadata.split["part"] == part
        assert metadata.ignore_label == 255
        folder = "SYNTHIA-SEQS-05-SUMMER" if "seqs" in name else "RAND_CITYSCAPES"
        assert metadata.image_root.endswith(f"{folder}/RGB")
        assert metadata.sem_seg_root.endswith(f"{folder}/GT/LABELS")
