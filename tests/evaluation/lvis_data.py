"""Small federated LVIS data, and their official evaluation."""

import json
import math
from dataclasses import dataclass, field

import lvis.eval
import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from lvis import LVIS, LVISEval, LVISResults
from PIL import Image
from pycocotools import mask as mask_utils

SIZE = 160  # of every image; fits small, medium and large objects


def dataset(groups, image_ids=(1,)):
    """Build categories 1, 2, ... of the given frequency groups, and images without objects."""
    return {
        "categories": [
            {"id": i, "name": f"class{i}", "frequency": g, "image_count": 10 * i}
            for i, g in enumerate(groups, start=1)
        ],
        "images": [
            {
                "id": i,
                "height": SIZE,
                "width": SIZE,
                "coco_url": f"http://x/val/{i}.jpg",
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
            for i in image_ids
        ],
        "annotations": [],
    }


def add_object(data, image_id, category_id, bbox, **extra):
    annotation = {
        "id": len(data["annotations"]) + 1,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": bbox[2] * bbox[3] * 7 / 8,
        "segmentation": [outline(bbox)],
        **extra,
    }
    data["annotations"].append(annotation)
    return annotation


def outline(bbox):
    """Return the box without one corner, so that the IoU of masks differs from that of boxes."""
    x, y, w, h = bbox
    return [x, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h]


def mask_of(bbox):
    return mask_utils.decode(mask_utils.frPyObjects([outline(bbox)], SIZE, SIZE))[:, :, 0] > 0


@dataclass
class ImageDetections:
    """Detections of a model in one image, with the category ids of the dataset."""

    image_id: int
    category_ids: list = field(default_factory=list)
    bboxes: list = field(default_factory=list)
    scores: list = field(default_factory=list)

    def add(self, category_id, bbox, score=0.9):
        self.category_ids.append(category_id)
        self.bboxes.append(bbox)
        self.scores.append(score)
        return self

    def as_model_output(self, *, masks=True):
        instances = Instances((SIZE, SIZE))
        boxes = torch.tensor(self.bboxes, dtype=torch.float32).reshape(-1, 4)
        xyxy = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        instances.pred_boxes = Boxes(xyxy)
        instances.pred_classes = torch.tensor(self.category_ids, dtype=torch.int64) - 1
        instances.scores = torch.tensor(self.scores, dtype=torch.float32)
        if masks:
            pictures = np.array([mask_of(b) for b in self.bboxes], dtype=bool)
            instances.pred_masks = torch.from_numpy(pictures.reshape(-1, SIZE, SIZE))
        return {"instances": instances}

    def as_lvis(self, task):
        """Build result dicts without Detectron2; round scores to float32, as in the model."""
        results = []
        for category_id, bbox, score in zip(
            self.category_ids, self.bboxes, self.scores, strict=True
        ):
            rle = mask_utils.encode(np.asfortranarray(mask_of(bbox), dtype=np.uint8))
            shape = {"bbox": list(bbox)} if task == "bbox" else {"segmentation": rle}
            result = {"image_id": self.image_id, "category_id": category_id}
            results.append({**result, "score": float(np.float32(score)), **shape})
        return results


def perfect_detections(data):
    found = {image["id"]: ImageDetections(image["id"]) for image in data["images"]}
    for a in data["annotations"]:
        found[a["image_id"]].add(a["category_id"], a["bbox"])
    return list(found.values())


def random_data(seed, groups="rrccfff", num_images=14):
    """Generate objects and detections with federated sets and ties in score."""
    rng = np.random.default_rng(seed)
    category_ids = np.arange(1, len(groups) + 1)
    data = dataset(groups, range(100, 100 + num_images))
    found = []
    for image in data["images"]:
        shuffled = rng.permutation(category_ids).tolist()
        positive, image["neg_category_ids"] = shuffled[:3], shuffled[3:5]
        image["not_exhaustive_category_ids"] = shuffled[2:4]
        detections = ImageDetections(image["id"])
        for category_id in positive:
            for _ in range(rng.integers(0, 3)):
                bbox = random_box(rng)
                add_object(data, image["id"], category_id, bbox)
                shift = rng.integers(-4, 5, 2).tolist()
                detections.add(category_id, moved(bbox, shift), round(rng.random(), 1))
        for category_id in rng.choice(category_ids, 5).tolist():
            detections.add(category_id, random_box(rng), round(rng.random(), 1))
        found.append(detections)
    return data, found


def random_box(rng):
    w, h = rng.integers(8, 120, 2).tolist()
    return [int(rng.integers(4, SIZE - w - 4)), int(rng.integers(4, SIZE - h - 4)), w, h]


def moved(bbox, shift):
    return [bbox[0] + shift[0], bbox[1] + shift[1], bbox[2], bbox[3]]


def official_evaluation(json_file, detections, task, monkeypatch, max_dets=300):
    """Return the finished ``LVISEval`` of lvis, with the ``np.float`` that it lacks."""
    results = [r for d in detections for r in d.as_lvis(task)]
    with monkeypatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        assert lvis.eval.np is np
        ground_truth = LVIS(str(json_file))
        evaluation = LVISEval(ground_truth, LVISResults(ground_truth, results, max_dets), task)
        evaluation.run()
    return evaluation


def official_metrics(evaluation, names):
    """Return metrics in percent, with nan for lvis's -1.

    ``lvis`` has no AR of the frequency groups. Here it is the mean that ``lvis`` takes for AP.
    """
    results = {name.split("@")[0]: value for name, value in evaluation.results.items()}
    recall = evaluation.eval["recall"][..., 0]
    for i, group in enumerate("rcf"):
        present = recall[:, evaluation.freq_groups[i]]
        present = present[present > -1]
        results[f"AR{group}"] = present.mean() if present.size else -1
    values = {name: results[name] for name in names}
    return {name: math.nan if v == -1 else 100 * float(v) for name, v in values.items()}


def run_evaluator(evaluator, detections, *, masks=True):
    evaluator.reset()
    for d in detections:
        evaluator.process([{"image_id": d.image_id}], [d.as_model_output(masks=masks)])
    return evaluator.evaluate()


def write_images(folder, data):
    """Write an image of noise for each entry, in LVIS's layout: by the end of its URL."""
    rng = np.random.default_rng(0)
    for image in data["images"]:
        path = folder.joinpath(*image["coco_url"].split("/")[-2:])
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)


def write_json(path, data):
    path.write_text(json.dumps(data))
    return path


def written_files(folder):
    """Return the content of each file without the name of the folder, which the report has."""
    name = str(folder).encode()
    return {path.name: path.read_bytes().replace(name, b"") for path in folder.iterdir()}
