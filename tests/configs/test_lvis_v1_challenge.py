"""Tests of the challenge's data config: the random transforms and the model's inputs."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.structures import BoxMode
from omegaconf import OmegaConf

from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset

PATH = "configs/common/data/lvis_v1_challenge.py"


def read(input_format="BGR"):
    """Return the part together with the keys that its interpolations refer to."""
    cfg = LazyConfig.load(PATH)
    cfg.model = OmegaConf.create({"input_format": input_format})
    cfg.train = OmegaConf.create({"output_dir": "output"})
    return cfg


def mapper_of(size=None, **options):
    mapper = read().dataloader.train.mapper
    if size:  # as described in the part's docstring
        resize, crop, _ = mapper.augmentations
        resize.update(target_height=size, target_width=size)
        crop.crop_size = (size, size)
    mapper.update(options)
    return instantiate(mapper)


@pytest.mark.parametrize("size", [(480, 640), (640, 427)])
def test_the_long_edge_is_uniform_between_768_and_1792(size):
    resize = mapper_of().augmentations.augs[0]
    drawn = [resize.get_transform(np.zeros((*size, 3), np.uint8)) for _ in range(4000)]
    lengths = np.array([max(t.new_h, t.new_w) for t in drawn])
    assert 768 <= lengths.min() <= 772
    assert 1788 <= lengths.max() <= 1792
    assert lengths.mean() == pytest.approx(1280, abs=20)
    assert lengths.std() == pytest.approx(1024 / np.sqrt(12), rel=0.03)
    ratios = np.array([t.new_h / t.new_w for t in drawn])
    np.testing.assert_allclose(ratios, size[0] / size[1], rtol=2e-3)


def test_crops_are_at_most_1280_square_with_independent_offsets():
    crop = mapper_of().augmentations.augs[1]
    image = np.broadcast_to(np.uint8(0), (1500, 1700, 3))
    drawn = [crop.get_transform(image) for _ in range(3000)]
    assert {(t.h, t.w) for t in drawn} == {(1280, 1280)}
    offsets = np.array([(t.x0, t.y0) for t in drawn])
    assert (offsets.min(axis=0) < 5).all()
    assert (offsets.max(axis=0) > [415, 215]).all()
    assert (offsets.max(axis=0) <= [420, 220]).all()
    np.testing.assert_allclose(offsets.mean(axis=0), [210, 110], atol=8)
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.06
    narrow = crop.get_transform(np.broadcast_to(np.uint8(0), (900, 1700, 3)))
    assert (narrow.h, narrow.w, narrow.y0) == (900, 1280, 0)


def test_half_of_the_images_are_flipped():
    flip = mapper_of().augmentations.augs[2]
    image = np.zeros((8, 8, 3), np.uint8)
    names = [type(flip.get_transform(image)).__name__ for _ in range(1000)]
    assert names.count("HFlipTransform") == pytest.approx(500, abs=60)


@pytest.fixture
def coded(tmp_path):
    """Return a record of five instances on black, each with its own gray level."""
    image = np.zeros((300, 400, 3), np.uint8)
    shapes = [
        [(30, 40, 130, 120)],
        [(160, 20, 200, 150), (220, 60, 280, 110)],
        [(300, 30, 399, 140)],
        [(20, 180, 120, 290)],
        [(180, 190, 330, 280)],
    ]
    annotations = []
    for i, boxes in enumerate(shapes):
        polygons = []
        for x0, y0, x1, y1 in boxes:
            image[y0:y1, x0:x1] = 50 * (i + 1)
            polygons.append([float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)])
        corners = np.array(boxes, float)
        box = [*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0)]
        annotations.append(
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": polygons,
                "category_id": i,
            }
        )
    path = str(tmp_path / "coded.png")
    cv2.imwrite(path, image)
    return {"file_name": path, "height": 300, "width": 400, "annotations": annotations}


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_pixels_masks_and_boxes_agree_after_all_transforms(coded, mask_format):
    # Color augmentation would change the gray levels that identify the instances.
    mapper = mapper_of(320, instance_mask_format=mask_format)
    mapper.instance_augmentation.color_probability = 0
    mapper.instance_augmentation.probability = 1
    agreement = []
    for _ in range(25):
        result = mapper(coded)
        instances, image = result["instances"], result["image"][0].int()
        h, w = image.shape
        assert max(h, w) <= 320
        assert len(instances) > 0
        for box, label, mask in zip(
            instances.gt_boxes, instances.gt_classes, instances.gt_masks, strict=True
        ):
            if mask_format == "polygon":
                inside = np.zeros((h, w), np.uint8)
                for polygon in mask:
                    cv2.fillPoly(inside, [np.round(polygon.reshape(-1, 1, 2) - 0.5).astype(int)], 1)
                corners = np.concatenate([p.reshape(-1, 2) for p in mask])
                tight = [*corners.min(axis=0), *corners.max(axis=0)]
                np.testing.assert_allclose(box, tight, atol=1e-3)
            else:
                inside = mask.numpy().astype(np.uint8)
                columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
                tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                np.testing.assert_allclose(box, tight)
            core = torch.as_tensor(cv2.erode(inside, np.ones((7, 7)), borderValue=1)).bool()
            if core.sum() > 50:
                level = image[core]
                agreement.append(((level - 50 * (label + 1)).abs() <= 4).float().mean())
    # Not exactly 1: where instances overlap, the level belongs to the one in front.
    assert len(agreement) > 50
    assert np.mean(agreement) > 0.97


def test_a_small_version_of_generated_data_trains(tmp_path):
    spec = LongTailSpec(num_categories=5, num_train_images=24, num_val_images=10)
    dataset = generate_longtail_dataset(tmp_path, spec, processes=1)
    records = load_lvis_json(str(dataset.train_json), f"{dataset.root}/")
    mapper = mapper_of(160)
    sides = []
    for record in records:
        result = mapper(record)
        sides += result["image"].shape[1:]
        instances = result["instances"]
        assert len(instances) > 0
        assert instances.gt_boxes.nonempty().all()
        assert instances.has("gt_masks")
        assert (instances.gt_boxes.tensor >= 0).all()
        assert (instances.gt_boxes.tensor <= 160).all()
    assert max(sides) == 160
    assert 96 <= min(sides) < 140


def test_is_yaml_and_does_not_change_testing(tmp_path):
    cfg = read("RGB")
    LazyConfig.save(cfg, str(tmp_path / "cfg.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == [
        "cfg.yaml"
    ]  # no .pkl: it was saved as plain YAML
    mapper = instantiate(LazyConfig.load(str(tmp_path / "cfg.yaml")).dataloader.train.mapper)
    assert mapper.image_format == mapper.instance_augmentation.image_format == "RGB"
    assert mapper.recompute_boxes
    assert mapper.use_instance_mask
    base = LazyConfig.load("configs/common/data/lvis_v1.py")
    assert str(cfg.dataloader.test) == str(base.dataloader.test)
