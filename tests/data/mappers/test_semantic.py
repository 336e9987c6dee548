import copy

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper

from d2_seesaw.data import SemanticDatasetMapper

IGNORED = 255


@pytest.fixture
def record(tmp_path):
    """Write labels in blocks of 8 x 8 pixels and a picture with the label as blue channel."""
    blocks = np.random.default_rng(0).integers(0, 10, (8, 12)).astype(np.uint8)
    blocks[2, 3:6] = IGNORED
    labels = np.kron(blocks, np.ones((8, 8), np.uint8))
    picture = np.stack([labels, np.full_like(labels, 20), np.full_like(labels, 90)], axis=2)
    cv2.imwrite(str(tmp_path / "image.png"), picture)
    cv2.imwrite(str(tmp_path / "labels.png"), labels)
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "height": 64,
        "width": 96,
        "image_id": 5,
    }


def mapper(*augmentations, is_train=True, **options):
    options = {"image_format": "BGR", **options}
    return SemanticDatasetMapper(is_train=is_train, augmentations=augmentations, **options)


@pytest.mark.parametrize(
    ("augmentations", "size"),
    [
        ([], (64, 96)),
        ([T.RandomFlip()], (64, 96)),
        ([T.RandomFlip(horizontal=False, vertical=True)], (64, 96)),
        ([T.RandomCrop("absolute", (30, 41)), T.RandomFlip()], (30, 41)),
        ([T.RandomCrop_CategoryAreaConstraint("absolute", (30, 41), 0.75, IGNORED)], (30, 41)),
        ([T.RandomCrop("absolute", (640, 41))], (64, 41)),
        ([T.ResizeTransform(64, 96, 128, 192, 0), T.RandomCrop("absolute", (99, 77))], (99, 77)),
        ([T.FixedSizeCrop((80, 110), pad_value=255), T.RandomFlip()], (80, 110)),
    ],
)
def test_labels_stay_with_their_pixels_under_all_augmentations(record, augmentations, size):
    map_record = mapper(*augmentations)
    for _ in range(10):
        mapped = map_record(record)
        assert mapped["image"].shape == (3, *size)
        torch.testing.assert_close(mapped["sem_seg"], mapped["image"][0].long())


def test_augmentations_are_drawn_for_every_record(record):
    map_record = mapper(T.RandomCrop("absolute", (30, 41)))
    assert len({map_record(record)["sem_seg"].numpy().tobytes() for _ in range(10)}) > 5


def test_equals_detectron2s_mapper_on_files_that_both_read(record):
    augmentations = [T.ResizeShortestEdge(40), T.RandomFlip()]
    options = {"is_train": True, "augmentations": augmentations, "image_format": "RGB"}
    for seed in range(4):
        np.random.seed(seed)
        expected = DatasetMapper(**options)(record)
        np.random.seed(seed)
        mapped = SemanticDatasetMapper(**options)(record)
        for key in ("image", "sem_seg"):
            assert mapped[key].dtype == expected[key].dtype
            torch.testing.assert_close(mapped[key], expected[key], rtol=0, atol=0)
        assert {k: mapped[k] for k in ("height", "width", "image_id")} == {
            k: expected[k] for k in ("height", "width", "image_id")
        }


def test_ids_in_the_file_are_mapped(record):
    labels = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
    mapped = mapper()(record | {"sem_seg_label_ids": {3: 0, 4: 1}})["sem_seg"].numpy()
    np.testing.assert_array_equal(mapped == 0, labels == 3)
    np.testing.assert_array_equal(mapped == 1, labels == 4)
    np.testing.assert_array_equal(mapped == IGNORED, (labels != 3) & (labels != 4))


def test_the_record_is_not_modified_and_its_entries_are_kept(record):
    before = copy.deepcopy(record)
    mapped = mapper(T.RandomCrop("absolute", (8, 8)))(record)
    assert record == before
    assert {key: mapped[key] for key in record} == record


def test_inference_keeps_the_path_of_the_labels_without_reading_them(record):
    record["sem_seg_file_name"] = "nowhere.png"
    mapped = mapper(T.ResizeShortestEdge(32), is_train=False)(record)
    assert "sem_seg" not in mapped
    assert mapped["image"].shape == (3, 32, 48)
    assert mapped["sem_seg_file_name"] == "nowhere.png"
    assert (mapped["height"], mapped["width"]) == (64, 96)


def test_instances_are_left_out(record):
    mapped = mapper()(record | {"annotations": [{"category_id": 1}], "segments_info": []})
    assert not {"annotations", "segments_info", "instances"} & set(mapped)


def test_labels_that_are_not_classes_or_of_another_size_are_refused(record, tmp_path):
    with pytest.raises(ValueError, match=r"labels\.png contains 9; expected classes in \[0, 8\]"):
        mapper(num_classes=9)(record)
    cv2.imwrite(str(tmp_path / "labels.png"), np.zeros((64, 95), np.uint8))
    del record["height"], record["width"]
    with pytest.raises(ValueError, match=r"is 64 x 95, but its image is 64 x 96"):
        mapper()(record)


def test_training_needs_a_label_map(record):
    del record["sem_seg_file_name"]
    with pytest.raises(ValueError, match="has no sem_seg_file_name"):
        mapper()(record)
    mapper(is_train=False)(record)


def test_another_ignore_label_is_used(record):
    mapped = mapper(ignore_label=200)(record | {"sem_seg_label_ids": {3: 0}})
    assert set(mapped["sem_seg"].unique().tolist()) == {0, 200}
