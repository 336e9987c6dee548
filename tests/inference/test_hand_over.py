"""Hand-over to FiftyOne and supervision: boxes, masks to the pixel, scores, names, kinds of errors.

The tests of a package are skipped where it is not installed.
"""

import json
import logging
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.analysis.judging import read_judged
from d2_seesaw.inference import to_fiftyone, to_supervision, to_supervision_dataset

H, W = 60, 80
NAMES = {7: "kerb", 40: "d\u00e9p\u00f4t", 1000: "\u72ac"}
GROUPS = {7: "r", 40: "c", 1000: "f"}


def blob(rng):
    mask = np.zeros((H, W), np.uint8)
    center = (int(rng.integers(15, W - 15)), int(rng.integers(15, H - 15)))
    cv2.ellipse(mask, center, tuple(rng.integers(5, 14, 2).tolist()), 30, 0, 360, 1, -1)
    rle = mask_utils.encode(np.asfortranarray(mask))
    shape = {"size": [H, W], "counts": rle["counts"].decode()}
    return {"segmentation": shape, "bbox": mask_utils.toBbox(rle).tolist()}


@pytest.fixture
def case(tmp_path):
    """Return annotations, images and results; one of four images is missing."""
    rng = np.random.default_rng(0)
    images, annotations, results = [], [], []
    (tmp_path / "images").mkdir()
    for image_id in (3, 5, 12, 90):
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": H, "width": W})
        if image_id != 90:
            pixels = rng.integers(0, 256, (H, W, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{image_id}.png")
        for category in NAMES:
            shape = {"image_id": image_id, "category_id": category, **blob(rng)}
            annotations.append({**shape, "id": len(annotations) + 1, "area": 100, "iscrowd": 0})
            results.append({**shape, "score": round(rng.random(), 3)})
            wrong = list(NAMES)[0 if category != 7 else 1]
            results.append({**shape, "category_id": wrong, "score": round(rng.random(), 3)})
    categories = [{"id": i, "name": n, "frequency": GROUPS[i]} for i, n in NAMES.items()]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path / "val.json", tmp_path / "images", tmp_path / "results.json"


def areas(entries):
    return [int(mask_utils.area(entry.segmentation)) for entry in entries]


def judged(case):
    dataset = read_judged(case[0], case[2])
    images = {i["file_name"]: n for n, i in enumerate(dataset.table.images) if i["id"] != 90}
    return dataset, images


@pytest.mark.parametrize("package", ["fiftyone", "supervision"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, case, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    convert = {"fiftyone": to_fiftyone, "supervision": to_supervision_dataset}[package]
    with pytest.raises(ImportError, match=f"pip install {package}"):
        convert(*case)


def test_supervision_gets_the_output_of_a_model():
    sv = pytest.importorskip("supervision")
    masks = np.random.default_rng(0).random((2, H, W)) > 0.5
    found = Instances((H, W))
    found.pred_boxes = Boxes(torch.tensor([[1.5, 2, 30, 40], [5, 6, 70, 50]]))
    found.scores = torch.tensor([0.9, 0.25])
    found.pred_classes = torch.tensor([2, 0])
    found.pred_masks = torch.from_numpy(masks)
    detections = to_supervision(found, list(NAMES.values()))
    plain = sv.Detections.from_detectron2({"instances": found})
    for field in ("xyxy", "confidence", "class_id", "mask"):
        np.testing.assert_array_equal(getattr(detections, field), getattr(plain, field))
    assert detections.data["class_name"].tolist() == ["\u72ac", "kerb"]
    found.remove("pred_masks")
    assert to_supervision(found).mask is None
    assert len(to_supervision(found[:0])) == 0


@pytest.mark.parametrize("with_results", [False, True])
def test_supervision_gets_every_object_and_detection_with_its_mask(case, with_results, caplog):
    pytest.importorskip("supervision")
    with caplog.at_level(logging.WARNING):
        made = to_supervision_dataset(*(case if with_results else case[:2]))
    assert "1 images are left out" in caplog.text
    assert made.classes == list(NAMES.values())
    dataset, images = judged(case)
    assert len(made) == len(images) == 3
    for path, pixels, found in made:
        assert pixels.shape == (H, W, 3)
        index = images[path.rpartition("/")[2]]
        entries = dataset.found(index) if with_results else dataset.objects(index)
        assert found.mask.area.tolist() == areas(entries)
        for mask, entry in zip(found.mask, entries, strict=True):
            np.testing.assert_array_equal(mask, mask_utils.decode(entry.segmentation) > 0)
        boxes = np.array([e.box for e in entries])
        np.testing.assert_allclose(found.xyxy[:, 2:] - found.xyxy[:, :2], boxes[:, 2:])
        names = [dataset.names[e.category] for e in entries]
        assert found.data["class_name"].tolist() == names
        assert set(found.data["frequency_group"]) <= set("rcf")
        if with_results:
            assert found.data["error_kind"].tolist() == [e.kind for e in entries]
            np.testing.assert_allclose(found.confidence, [e.score for e in entries])


def test_supervision_gets_boxes_without_masks(case):
    pytest.importorskip("supervision")
    data = json.loads(case[0].read_text())
    for annotation in data["annotations"]:
        del annotation["segmentation"]
    case[0].write_text(json.dumps(data))
    made = to_supervision_dataset(*case[:2])
    assert [len(found) for found in made.annotations.values()] == [3, 3, 3]
    assert all(found.mask is None for found in made.annotations.values())


@pytest.fixture
def fiftyone():
    """FiftyOne with its database, which not every machine can start."""
    fo = pytest.importorskip("fiftyone")
    try:
        fo.list_datasets()
    except Exception as error:
        pytest.skip(f"FiftyOne has no database here: {error}")
    return fo


def test_fiftyone_gets_ground_truth_and_predictions_with_all_attributes(case, fiftyone):
    made = to_fiftyone(*case)
    try:
        dataset, images = judged(case)
        assert made.media_type == "image"
        assert made.default_classes == list(NAMES.values())
        assert len(made) == 3
        for sample in made:
            index = images[sample.filepath.rpartition("/")[2]]
            assert sample.image_id == str(dataset.table.images[index]["id"])
            _compare(sample.ground_truth.detections, dataset, dataset.objects(index))
            _compare(sample.predictions.detections, dataset, dataset.found(index))
            assert all(d.confidence is None for d in sample.ground_truth.detections)
            scores = [d.confidence for d in sample.predictions.detections]
            np.testing.assert_allclose(scores, [e.score for e in dataset.found(index)])
        wrong = fiftyone.ViewField("error_kind") == "confused"
        view = made.filter_labels("predictions", wrong)
        number = sum(e.kind == "confused" for i in images.values() for e in dataset.found(i))
        assert view.count("predictions.detections") == number > 0
        assert "predictions.detections.frequency_group" in made.get_field_schema(flat=True)
    finally:
        made.delete()


def _compare(detections, dataset, entries):
    assert [d.label for d in detections] == [dataset.names[e.category] for e in entries]
    assert [int(d.mask.sum()) for d in detections] == areas(entries)
    assert [d.error_kind for d in detections] == [e.kind for e in entries]
    assert [d.frequency_group for d in detections] == [dataset.groups[e.category] for e in entries]
    others = [None if e.other is None else dataset.names[e.other] for e in entries]
    assert [d.other_class for d in detections] == others
    boxes = np.array([d.bounding_box for d in detections]) * [W, H, W, H]
    np.testing.assert_allclose(boxes, [e.box for e in entries], atol=1e-9)


def test_fiftyone_gets_ground_truth_alone(case, fiftyone):
    made = to_fiftyone(*case[:2])
    try:
        assert not made.has_sample_field("predictions")
        assert made.count("ground_truth.detections") == 9
    finally:
        made.delete()
