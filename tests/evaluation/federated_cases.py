"""Random federated data with named traits, and their official curves."""

import copy
from unittest import mock

import numpy as np
from lvis import LVISEval, LVISResults
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import match_detections, precision_and_recall
from d2_seesaw.evaluation.lvis.official import lvis_from_dict
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits

SIZE = 130  # of every image: large enough for an area of 96 x 96

TRAITS = (
    *("plain", "sorted scores", "real boxes", "tied scores", "iou at threshold", "area at bound"),
    *("other area field", "not exhaustive", "not exhaustive without object", "ignored", "crowd"),
    *("images without objects", "images without detections", "one image", "over the limit"),
    *("unknown category", "unverified category", "empty group", "one category", "rle"),
    *("zero area", "equal ious", "many in a pair", "no detections", "strange ids"),
    *("more than 300",),
)


def federated_case(seed, *traits):
    """Generate annotations, and detections with box and mask; ``traits`` are of ``TRAITS``."""
    return _Case(np.random.default_rng(seed), traits).make()


class _Case:
    def __init__(self, rng, traits):
        self.rng, self.traits = rng, traits

    def has(self, trait, probability=0.5):
        return trait in self.traits and self.rng.random() < probability

    def make(self):
        rng = self.rng
        K = 1 if "one category" in self.traits else 5
        groups = "rrrff" if "empty group" in self.traits else "rrccf"
        ids = (
            rng.permutation(np.arange(1, 60))[:K]
            if "strange ids" in self.traits
            else 1 + np.arange(K)
        )
        self.ids = ids.tolist()
        num_images = 1 if "one image" in self.traits else 6
        first = 1 if "one image" in self.traits else int(rng.integers(1, 90))
        images = [
            self.image(i) for i in rng.permutation(np.arange(first, first + num_images)).tolist()
        ]
        self.data = {
            "categories": [
                {"id": i, "frequency": g} for i, g in zip(self.ids, groups, strict=False)
            ],
            "images": images,
            "annotations": [],
        }
        self.results = []
        for image in images:
            self.fill(image)
        shuffled = rng.permutation(len(self.data["annotations"])).tolist()
        self.data["annotations"] = [self.data["annotations"][i] for i in shuffled]
        self.results = [self.results[i] for i in rng.permutation(len(self.results)).tolist()]
        if "sorted scores" in self.traits:
            self.results.sort(key=lambda r: -r["score"])
        if "no detections" in self.traits:
            self.results = []
        return self.data, self.results

    def image(self, image_id):
        order = self.rng.permutation(self.ids).tolist()
        negative = order[3:] if len(order) > 1 else order
        loose = order[1:2] if "not exhaustive" in self.traits else []
        if "not exhaustive without object" in self.traits:
            loose = [*loose, *order[2:4]]
        return {
            **{"id": image_id, "height": SIZE, "width": SIZE},
            "neg_category_ids": negative,
            "not_exhaustive_category_ids": loose,
        }

    def fill(self, image):
        positive = [i for i in self.ids if i not in image["neg_category_ids"]] or self.ids
        if "not exhaustive without object" in self.traits:
            positive = [i for i in positive if i not in image["not_exhaustive_category_ids"][-2:]]
        if not self.has("images without objects", 0.4):
            for category in positive:
                for _ in range(self.rng.integers(0, 6 if "many in a pair" in self.traits else 3)):
                    self.add_object(image["id"], category)
        if not self.has("images without detections", 0.4):
            self.detect(image, positive)

    def detect(self, image, positive):
        mine = [a for a in self.data["annotations"] if a["image_id"] == image["id"]]
        for annotation in mine:
            for _ in range(self.rng.integers(0, 4 if "many in a pair" in self.traits else 3)):
                self.add_result(image["id"], annotation["category_id"], self.near(annotation))
        elsewhere = [*image["neg_category_ids"], *image["not_exhaustive_category_ids"], *positive]
        if "unverified category" in self.traits:
            elsewhere = [*self.ids, *self.ids]
        if "unknown category" in self.traits:
            elsewhere = [*elsewhere, 77, 88]
        extra = 20 if "over the limit" in self.traits else 6
        if "more than 300" in self.traits and self.rng.random() < 0.5:
            extra = 330
        for category in self.rng.choice(elsewhere or self.ids, extra).tolist():
            self.add_result(image["id"], category, self.box())

    def box(self):
        if self.has("area at bound"):
            side = self.rng.choice([32, 96])
            w, h = (side, side) if side == 96 or self.rng.random() < 0.5 else (16, 64)
        else:
            w, h = self.rng.integers(3, 100, 2)
        x, y = self.rng.integers(0, SIZE - w + 1), self.rng.integers(0, SIZE - h + 1)
        box = np.array([x, y, w, h], dtype=float)
        if "real boxes" in self.traits:
            box = box * self.rng.uniform(0.9, 1, 4)
        if self.has("zero area", 0.3):
            box[self.rng.integers(2, 4)] = 0
        return [round(v) if v == round(v) else v for v in box.tolist()]

    def near(self, annotation):
        """Return the box of the object, shrunk so that the IoU is a threshold, or moved."""
        x, y, w, h = annotation["bbox"]
        if self.has("iou at threshold"):
            return [x, y, w, h * int(self.rng.integers(10, 20)) / 20]
        if self.has("equal ious", 0.8):
            return [x, y, w, h]
        dx, dy = self.rng.integers(-6, 7, 2).tolist()
        return [min(max(x + dx, 0), SIZE - w), min(max(y + dy, 0), SIZE - h), w, h]

    def add_object(self, image_id, category):
        before = [a for a in self.data["annotations"] if a["image_id"] == image_id]
        box = self.box()
        if before and self.has("equal ious", 0.6):
            box = list(before[-1]["bbox"])
        area = float(mask_utils.area(box_rle(box)))
        if self.has("other area field"):
            area = float(self.rng.choice([1.0, 1024.0, 5000.0, 9216.0, 9217.0]))
        annotation = {
            "id": len(self.data["annotations"]) + 1,
            **{"image_id": image_id, "category_id": category, "bbox": box, "area": area},
            "segmentation": self.segmentation(box),
        }
        if self.has("ignored", 0.3):
            annotation["ignore"] = 1
        if self.has("crowd", 0.3):
            annotation["iscrowd"] = 1
        self.data["annotations"].append(annotation)

    def segmentation(self, box):
        x, y, w, h = box
        kind = self.rng.integers(3) if "rle" in self.traits else 0
        if kind == 0 and w >= 2 and h >= 2:
            return [[x, y, x + w, y, x + w, y + h, x, y + h]]
        return box_rle(box) if kind == 1 else _runs(box)

    def add_result(self, image_id, category, box):
        score = float(self.rng.random())
        if {"tied scores", "over the limit", "more than 300"} & set(self.traits):
            score = round(score, 1)
        self.results.append(
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            | {"segmentation": box_rle(box)}
        )


def _mask(box):
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    x, y, w, h = box
    mask[round(y) : round(y + h), round(x) : round(x + w)] = 1
    return mask


def box_rle(box):
    rle = mask_utils.encode(_mask(box))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _runs(box):
    flat = _mask(box).reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": [SIZE, SIZE], "counts": np.diff([0, *edges, flat.size]).tolist()}


def shape(record, task):
    """Return the boxes or masks that pycocotools compares."""
    if task == "bbox":
        return np.array([record["bbox"]], dtype=float)
    segmentation = record["segmentation"]
    if isinstance(segmentation, list):
        return [mask_utils.merge(mask_utils.frPyObjects(segmentation, SIZE, SIZE))]
    if isinstance(segmentation["counts"], list):
        return [mask_utils.frPyObjects(segmentation, *segmentation["size"])]
    return [segmentation]


def area(result, task):
    if task == "bbox":
        return result["bbox"][2] * result["bbox"][3]
    return float(mask_utils.area(shape(result, task))[0])


def results_of_task(results, task):
    """Copy results with the shape of the task only: given both, lvis uses the area of the box."""
    other = "segmentation" if task == "bbox" else "bbox"
    return [{k: v for k, v in r.items() if k != other} for r in copy.deepcopy(results)]


class _OfficialEvaluation(LVISEval):
    def _get_gt_dt(self, img_id, cat_id):
        """Follow lvis-api's repository; class-agnostic, release 0.5.3 looks for category -1."""
        if self.params.use_cats:
            return super()._get_gt_dt(img_id, cat_id)
        gt = [a for c in self.params.cat_ids for a in self._gts[img_id, c]]
        return gt, [a for c in self.params.cat_ids for a in self._dts[img_id, c]]


def official_evaluation(data, results, task, max_dets=300, *, class_agnostic=False):
    """Return the accumulated ``LVISEval`` of lvis, with the ``np.float`` that it lacks."""
    results = results_of_task(results, task)
    if not results:  # lvis would raise an IndexError; it drops unknown categories
        results = results_of_task(
            [
                {"image_id": data["images"][0]["id"], "category_id": -1, "score": 0.0}
                | {"bbox": [0, 0, 1, 1], "segmentation": box_rle([0, 0, 1, 1])}
            ],
            task,
        )
    with mock.patch.object(np, "float", float, create=True):
        ground_truth = lvis_from_dict(copy.deepcopy(data))
        evaluation = _OfficialEvaluation(
            ground_truth, LVISResults(ground_truth, results, max_dets), task
        )
        evaluation.params.use_cats = int(not class_agnostic)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def our_curves(data, results, task, max_dets=300, *, class_agnostic=False):
    matched = match_detections(
        GroundTruthColumns.from_dataset(copy.deepcopy(data)),
        Detections.from_results(results),
        task,
        limits=DetectionLimits(per_image=max_dets),
        class_agnostic=class_agnostic,
    )
    return precision_and_recall(matched)


def assert_equal_curves(data, results, task, max_dets=300, *, class_agnostic=False):
    """Compare bit for bit; return the official evaluation."""
    official = official_evaluation(data, results, task, max_dets, class_agnostic=class_agnostic)
    precision, recall = our_curves(data, results, task, max_dets, class_agnostic=class_agnostic)
    np.testing.assert_array_equal(precision, official.eval["precision"])
    np.testing.assert_array_equal(recall, official.eval["recall"])
    return official
