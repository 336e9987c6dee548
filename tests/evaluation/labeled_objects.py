"""Random data with confused objects, and a literal version of the rule that labels objects."""

import numpy as np
from pycocotools import mask as mask_utils

from tests.evaluation.federated_cases import area, box_rle, federated_case, shape

TRAITS = ("ignored", "equal ious", "many in a pair", "zero area", "unverified category", "rle")
MORE_TRAITS = ("strange ids", "images without objects", "images without detections")


def confused_case(seed, *traits):
    """Generate a federated case with more detections of any category near its objects."""
    data, results = federated_case(seed, *TRAITS, *MORE_TRAITS, *traits)
    rng = np.random.default_rng(seed)
    ids = [c["id"] for c in data["categories"]] + [77]
    for result in [r for r in results for _ in range(2)]:
        x, y, w, h = result["bbox"]
        score = rng.random()
        more = {"category_id": int(rng.choice(ids)), "bbox": [x, y, w, round(h * 0.9)]}
        more |= {"score": round(score, 1) if "tied scores" in traits else score}
        results.append(result | more | {"segmentation": box_rle(more["bbox"])})
    for result in results:
        score = rng.random()
        result["mask_score"] = round(score, 1) if "tied scores" in traits else score
    return data, results


def label_one_by_one(data, results, score, compared, limit):
    """Apply the rule as literally as possible; ``compared`` is "bbox" or "segm".

    Return by annotation id the result that labels the object, or None.
    """
    known = {c["id"] for c in data["categories"]}
    names = {}
    for image in data["images"]:
        mine = [(r, row) for row, r in enumerate(results) if r["image_id"] == image["id"]]
        mine = sorted(mine, key=lambda m: (-m[0][score], m[1]))[:limit]
        mine = [m for m in mine if m[0]["category_id"] in known and area(m[0], compared) > 0]
        mine.sort(key=lambda m: (-m[0][score], m[0]["category_id"], m[1]))
        objects = [a for a in data["annotations"] if a["image_id"] == image["id"] and a["area"] > 0]
        name_of = {}
        for result, _ in mine:
            best, highest = None, (0, 0, 0, 0)
            for g, there in enumerate(objects):
                iou = mask_utils.iou(shape(result, compared), shape(there, compared), [0])[0, 0]
                is_own = there["category_id"] == result["category_id"]
                if iou >= 0.5 and (iou, is_own, there["category_id"], g) > highest:
                    best, highest = g, (iou, is_own, there["category_id"], g)
            if best is not None:
                name_of.setdefault(best, result)
        for g, there in enumerate(objects):
            if not there.get("ignore"):
                names[there["id"]] = name_of.get(g)
    return names
