import copy

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.structures import BoxMode
from fvcore.transforms.transform import CropTransform, HFlipTransform, VFlipTransform
from pycocotools import mask as mask_utils

from d2_seesaw.data import (
    BitMaskDatasetMapper,
    InstaBoost,
    InstanceAugmentationDatasetMapper,
    InstanceDatasetMapper,
    OpenCVResizeShortestEdge,
    OpenCVResizeTransform,
)
from d2_seesaw.data.rle import encode_bitmap, encode_segmentation
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from tests.checkpoint.mmdet_weights import picture

SPEC = LongTailSpec(
    num_categories=5,
    num_train_images=24,
    num_val_images=10,
    image_size=(96, 128),
    objects_per_image=(3, 6),
)
MOVING = InstaBoost(probability=1, color_probability=0)
STANDARD = {"image_format": "BGR", "use_instance_mask": True}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    dataset = generate_longtail_dataset(tmp_path_factory.mktemp("data"), SPEC, processes=1)
    records = load_lvis_json(str(dataset.train_json), f"{dataset.root}/")
    for annotation in (a for record in records for a in record["annotations"]):
        # The file has whole numbers, whose fractions Detectron2 cuts off when it resizes them.
        annotation["bbox"] = [float(number) for number in annotation["bbox"]]
        polygons = annotation["segmentation"]
        annotation["segmentation"] = [[float(number) for number in part] for part in polygons]
    return records


def with_whole_numbers(record):
    record = copy.deepcopy(record)
    for annotation in record["annotations"]:
        annotation["bbox"] = [int(number) for number in annotation["bbox"]]
        polygons = annotation["segmentation"]
        annotation["segmentation"] = [[int(number) for number in part] for part in polygons]
    return record


def make(augmentations=(), **options):
    standard = {"image_format": "BGR", "use_instance_mask": True, "recompute_boxes": True}
    return InstanceAugmentationDatasetMapper(
        True, augmentations=list(augmentations), **{**standard, **options}
    )


def assert_same_inputs(first, second):
    assert first.keys() == second.keys()
    torch.testing.assert_close(first["image"], second["image"], rtol=0, atol=0)
    a, b = first["instances"], second["instances"]
    torch.testing.assert_close(a.gt_boxes.tensor, b.gt_boxes.tensor)
    assert a.gt_classes.tolist() == b.gt_classes.tolist()
    assert str(a.gt_masks.polygons) == str(b.gt_masks.polygons)


@pytest.mark.parametrize(
    "instance_augmentation", [None, InstaBoost(probability=0), lambda *given: given[:2]]
)
def test_equals_detectron2s_mapper_if_no_instance_moves(records, instance_augmentation):
    options = {
        "augmentations": [T.ResizeScale(0.8, 1.5, 128, 128), T.RandomFlip()],
        "image_format": "RGB",
        "use_instance_mask": True,
        "recompute_boxes": True,
    }
    ours = InstanceAugmentationDatasetMapper(
        True, instance_augmentation=instance_augmentation, **options
    )
    host = DatasetMapper(True, **options)
    for seed, record in enumerate(records[:6]):
        np.random.seed(seed)
        if instance_augmentation is not None:
            np.random.randint(2**32, size=4, dtype=np.uint32)  # the draw that seeds the generator
        expected = host(record)
        np.random.seed(seed)
        assert_same_inputs(ours(record), expected)


@pytest.mark.parametrize("edge", [70, 131])
def test_whole_numbers_are_transformed_as_real_ones(records, edge):
    options = {"augmentations": [T.ResizeShortestEdge(edge, 1333)], **STANDARD}
    ours, host = InstanceDatasetMapper(True, **options), DatasetMapper(True, **options)
    for record in records[:6]:
        assert_same_inputs(ours(with_whole_numbers(record)), host(record))


def test_instances_move_before_the_augmentations(records):
    mapper = make([T.HFlipTransform(128)], instance_augmentation=MOVING)
    for record in records[:6]:
        np.random.seed(3)
        result = mapper(record)
        np.random.seed(3)
        rng = np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32))
        image, annotations = MOVING(cv2.imread(record["file_name"]), record["annotations"], rng)
        expected = torch.as_tensor(image[:, ::-1].transpose(2, 0, 1).copy())
        torch.testing.assert_close(result["image"], expected, rtol=0, atol=0)
        assert result["instances"].gt_classes.tolist() == [a["category_id"] for a in annotations]
        for polygons, annotation in zip(
            result["instances"].gt_masks.polygons, annotations, strict=True
        ):
            for mirrored, polygon in zip(polygons, annotation["segmentation"], strict=True):
                np.testing.assert_allclose(128 - mirrored[0::2], polygon[0::2])
                np.testing.assert_allclose(mirrored[1::2], polygon[1::2])


def test_numpys_global_seed_determines_the_result(records):
    mapper = make([T.RandomFlip()], instance_augmentation=InstaBoost())
    results = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        results.append([mapper(record) for record in records])
    for first, second in zip(results[0], results[1], strict=True):
        assert_same_inputs(first, second)
    assert any(
        (a["image"] != b["image"]).any() for a, b in zip(results[0], results[2], strict=True)
    )


@pytest.mark.parametrize("form", ["lists", "arrays", "arrays and an encoding"])
@pytest.mark.parametrize(
    "mapper",
    [
        make([T.RandomFlip()]),
        make([T.RandomFlip()], instance_augmentation=InstaBoost(probability=0.5)),
        InstanceDatasetMapper(True, augmentations=[T.ResizeShortestEdge(70, 99)], **STANDARD),
        InstanceDatasetMapper(True, augmentations=[T.RandomCrop("absolute", (50, 50))], **STANDARD),
        BitMaskDatasetMapper(True, augmentations=[OpenCVResizeShortestEdge(70, 99)], **STANDARD),
    ],
    ids=["flip", "instance augmentation", "resize", "crop", "bit masks"],
)
def test_the_record_is_not_modified(records, mapper, form):
    records = copy.deepcopy(records[:8])
    for record in records:
        record["not_exhaustive_category_ids"] = [3]
        for annotation in record["annotations"]:
            if form != "lists":
                parts = annotation["segmentation"]
                annotation["segmentation"] = [np.array(part) for part in parts]
        if form == "arrays and an encoding":
            first = record["annotations"][0]
            first["segmentation"] = encode_segmentation(first["segmentation"], (96, 128))
    before = copy.deepcopy(records)
    for record in records:
        mapper(record)["not_exhaustive_category_ids"].append(5)
    assert str(records) == str(before)


class CropAt(T.Augmentation):
    """Augmentation that crops at given corners in turn."""

    def __init__(self, *corners):
        self.corners, self.taken = corners, 0

    def get_transform(self, image):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y = self.corners[min(self.taken, len(self.corners) - 1)]
        self.taken += 1
        return T.CropTransform(x, y, 12, 12)


@pytest.fixture
def square(tmp_path):
    """Write an image with a white instance at 60..80 x 40..60; return its record."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[40:60, 60:80] = 255
    path = str(tmp_path / "square.png")
    cv2.imwrite(path, image)
    polygon = [60.0, 40.0, 80.0, 40.0, 80.0, 60.0, 60.0, 60.0]
    annotation = {
        "bbox": [60.0, 40.0, 20.0, 20.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": [polygon],
        "category_id": 2,
    }
    return {"file_name": path, "height": 96, "width": 128, "annotations": [annotation]}


def test_augmentations_are_drawn_again_until_an_instance_is_left(square):
    crop = CropAt((0, 0), (100, 80), (70, 50), (0, 0))
    result = make([crop])(square)
    assert crop.taken == 3
    assert result["instances"].gt_boxes.tensor.tolist() == [[0, 0, 10, 10]]
    assert (result["image"][:, :10, :10] == 255).all()


@pytest.mark.parametrize("max_tries", [1, 4, 10])
def test_drawing_stops_after_max_tries(square, max_tries):
    crop = CropAt((0, 0))
    result = make([crop], max_tries=max_tries)(square)
    assert crop.taken == max_tries
    assert len(result["instances"]) == 0
    assert result["image"].shape == (3, 12, 12)


def test_augmentations_are_drawn_again_if_all_instances_were_dropped(square):
    calls = []

    def drop_twice(image, annotations, rng):
        calls.append(len(annotations))
        return image, list(annotations) if len(calls) > 2 else []

    result = make(instance_augmentation=drop_twice)(square)
    assert calls == [1, 1, 1]
    assert len(result["instances"]) == 1


@pytest.mark.parametrize("kind", ["none", "crowd"])
def test_pictures_without_instances_are_augmented_once_and_kept(square, kind):
    crowd = [{**square["annotations"][0], "iscrowd": 1}]
    record = {**square, "annotations": [] if kind == "none" else crowd}
    crop = CropAt((0, 0))
    result = make([crop], instance_augmentation=MOVING)(record)
    assert crop.taken == 1
    assert len(result["instances"]) == 0
    assert result["instances"].gt_boxes.tensor.shape == (0, 4)
    assert "annotations" not in result


def test_crowds_reach_the_augmentation_but_not_the_model(square):
    crowd = {**square["annotations"][0], "iscrowd": 1}
    seen = []

    def look(image, annotations, rng):
        seen.append([a.get("iscrowd", 0) for a in annotations])
        return image, list(annotations)

    record = {**square, "annotations": [*square["annotations"], crowd]}
    result = make(instance_augmentation=look)(record)
    assert seen == [[0, 1]]
    assert len(result["instances"]) == 1


def test_rle_masks_become_bitmasks(square):
    annotation = square["annotations"][0]
    mask = mask_utils.merge(mask_utils.frPyObjects(annotation["segmentation"], 96, 128))
    record = {**square, "annotations": [{**annotation, "segmentation": mask}]}
    mapper = make(instance_augmentation=MOVING, instance_mask_format="bitmask")
    for _ in range(5):
        result = mapper(record)
        white = (result["image"] > 128).all(dim=0)
        assert (white == result["instances"].gt_masks.tensor[0]).float().mean() > 0.99


@pytest.fixture
def mixed(records):
    """Return a record with several instances, the first of them run-length encoded."""
    record = copy.deepcopy(next(r for r in records if len(r["annotations"]) > 2))
    first = record["annotations"][0]
    polygons = mask_utils.frPyObjects(first["segmentation"], 96, 128)
    first["segmentation"] = mask_utils.merge(polygons)
    return record


@pytest.mark.parametrize("moved", [T.NoOpTransform(), T.HFlipTransform(128)], ids=repr)
def test_a_picture_with_an_encoding_has_the_masks_that_bitmask_gives(mixed, moved):
    options = {"augmentations": [moved], "recompute_boxes": True, **STANDARD}
    ours = InstanceDatasetMapper(True, **options)
    found = ours(mixed)["instances"]
    host = DatasetMapper(True, instance_mask_format="bitmask", **options)
    expected = host(mixed)["instances"]
    assert len(found) == len(expected) > 2
    torch.testing.assert_close(found.gt_masks.tensor, expected.gt_masks.tensor)
    torch.testing.assert_close(found.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert ours.instance_mask_format == "polygon"


def test_pictures_of_polygons_and_of_encoded_crowds_keep_polygons(records, mixed):
    mixed["annotations"][0]["iscrowd"] = 1
    options = {"augmentations": [T.ResizeScale(0.8, 1.5, 128, 128)], **STANDARD}
    ours, host = InstanceDatasetMapper(True, **options), DatasetMapper(True, **options)
    for record in (records[0], mixed):
        np.random.seed(1)
        expected = host(record)
        np.random.seed(1)
        assert_same_inputs(ours(record), expected)


def test_an_instance_augmentation_takes_mixed_masks(mixed):
    np.random.seed(5)
    found = make(instance_augmentation=MOVING)(mixed)["instances"]
    np.random.seed(5)
    bitmask = make(instance_augmentation=MOVING, instance_mask_format="bitmask")
    expected = bitmask(mixed)["instances"]
    torch.testing.assert_close(found.gt_masks.tensor, expected.gt_masks.tensor)


def test_the_test_mapper_matches_detectron2(records):
    calls = []
    mapper = InstanceAugmentationDatasetMapper(
        False, augmentations=[], image_format="BGR", instance_augmentation=calls.append
    )
    result = mapper(records[0])
    assert not calls
    expected = DatasetMapper(False, augmentations=[], image_format="BGR")(records[0])
    assert result.keys() == expected.keys()
    torch.testing.assert_close(result["image"], expected["image"])


def test_the_mapper_can_be_built_from_yacs():
    mapper = InstanceAugmentationDatasetMapper(
        get_cfg(), is_train=True, instance_augmentation=MOVING, max_tries=3
    )
    assert mapper.instance_augmentation is MOVING
    assert (mapper.max_tries, mapper.image_format, mapper.is_train) == (3, "BGR", True)


def test_inputs_that_would_not_move_with_the_instances_are_refused(square):
    with pytest.raises(ValueError, match="not support precomputed proposals"):
        make(instance_augmentation=MOVING, precomputed_proposal_topk=10)
    make(precomputed_proposal_topk=10)
    record = {**square, "sem_seg_file_name": square["file_name"]}
    with pytest.raises(ValueError, match="not support semantic labels"):
        make(instance_augmentation=MOVING)(record)
    assert "sem_seg" in make()(record)


def test_a_limit_of_zero_tries_is_refused():
    with pytest.raises(ValueError, match="max_tries must be at least 1, got 0"):
        make(max_tries=0)


POLYGONS = [
    [[3.5, 4.2, 30.1, 2.7, 41.9, 25.3, 20.4, 44.8, 5.0, 30.0]],
    [[40.0, 10.0, 58.3, 12.1, 50.2, 20.7], [44.4, 30.3, 60.9, 28.1, 52.5, 46.0]],
    [[10.0, 40.0, 12.0, 40.0, 11.0, 42.5]],
]


def with_polygons(path, polygons):
    height, width = 47, 61
    image = picture("data image", height, width).permute(1, 2, 0).numpy()
    assert cv2.imwrite(str(path), image[..., ::-1])
    annotations = []
    for i, parts in enumerate(polygons):
        xy = np.concatenate([np.reshape(part, (-1, 2)) for part in parts])
        box = [*xy.min(axis=0), *xy.max(axis=0)]
        annotations.append(
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, "segmentation": parts}
        )
    return {"file_name": str(path), "height": height, "width": width, "annotations": annotations}


@pytest.mark.parametrize(("edge", "flip"), [(80, 0), (80, 1), (31, 0), (31, 1)])
def test_masks_and_boxes_for_training_equal_those_of_mmdet(tmp_path, edge, flip):
    mapper = BitMaskDatasetMapper(
        True,
        augmentations=[OpenCVResizeShortestEdge(edge, 1333), T.RandomFlip(prob=float(flip))],
        image_format="RGB",
        use_instance_mask=True,
    )
    result = mapper(with_polygons(tmp_path / "image.png", POLYGONS))
    objects = result["instances"]
    with np.load("tests/golden/mmdet_3_3_0_training_images.npz") as recorded:
        masks = objects.gt_masks.tensor.numpy()
        expected = np.unpackbits(recorded[f"data masks {edge} {flip}"])[: masks.size]
        assert (masks.ravel() == expected).all()
        boxes = recorded[f"data boxes {edge} {flip}"]
        assert objects.gt_boxes.tensor.numpy() == pytest.approx(boxes, abs=1e-4)
        if f"data image {edge} {flip}" in recorded:
            difference = result["image"].numpy().astype(int) - recorded[f"data image {edge} {flip}"]
            assert abs(difference).max() <= 1  # OpenCV's vector instructions may round differently


MOVES = {
    "as stored": [],
    "larger": [OpenCVResizeTransform(47, 61, 90, 131)],
    "smaller": [OpenCVResizeTransform(47, 61, 13, 17)],
    "mirrored": [OpenCVResizeTransform(47, 61, 60, 80), HFlipTransform(80)],
    "upside down": [VFlipTransform(47), OpenCVResizeTransform(47, 61, 40, 33)],
    "cropped": [CropTransform(9, 4, 40, 35), OpenCVResizeTransform(35, 40, 70, 81)],
    "twice": [OpenCVResizeTransform(47, 61, 30, 50), OpenCVResizeTransform(30, 50, 77, 41)],
    "colored": [T.BlendTransform(np.zeros(1), 0.5, 0.5), HFlipTransform(61)],
    "turned, which moves no whole rows": [T.RotationTransform(47, 61, 30)],
}


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES.keys())
def test_each_mask_is_the_transformed_label_map_of_its_object(tmp_path, moves):
    whole = [[0.0, 0.0, 61.0, 0.0, 61.0, 47.0, 0.0, 47.0]]
    ring = np.zeros((47, 61), np.uint8)
    ring[20:40, 50:61], ring[25:35, 53:55] = 1, 0
    diagonal = np.zeros((47, 61), np.uint8)
    diagonal[[2, 4], [2, 4]] = 1  # around the only pixel of it that a smaller image shows
    record = with_polygons(tmp_path / "image.png", [*POLYGONS, whole])
    for mask in (ring, diagonal):
        annotation = {**record["annotations"][0], "segmentation": encode_bitmap(mask)}
        record["annotations"].append(annotation)
    sizes = record["height"], record["width"]
    expected = []
    for annotation in record["annotations"]:
        mask = mask_utils.decode(encode_segmentation(annotation["segmentation"], sizes))
        expected.append(T.TransformList(moves).apply_segmentation(mask) > 0)
    mapper = BitMaskDatasetMapper(True, augmentations=moves, **STANDARD)
    found = mapper(record)["instances"].gt_masks.tensor.numpy()
    np.testing.assert_array_equal(found, [mask for mask in expected if mask.any()])


def test_objects_thinner_than_a_pixel_are_left_out_as_in_mmdet(tmp_path):
    thin = [[20.0, 20.0, 20.9, 20.0, 20.9, 40.0, 20.0, 40.0]]
    mapper = BitMaskDatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=True
    )
    objects = mapper(with_polygons(tmp_path / "image.png", [thin, POLYGONS[0]]))["instances"]
    assert objects.gt_classes.tolist() == [1]
    assert len(mapper(with_polygons(tmp_path / "image.png", [thin]))["instances"]) == 0
