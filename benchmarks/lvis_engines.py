"""Engines of LVIS metrics behind one function each: this project's, lvis-api and peers.

A peer that is not installed is left out. Each engine gets annotations and detections in the form it
reads fastest and returns the ``(T, R, K, A)`` precision, as lvis-api has it.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec
import numpy as np
from lvis import LVISEval, LVISResults

from d2_seesaw.data.annotations.coco import parse_text
from d2_seesaw.evaluation.lvis import mask_overlaps
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import match_detections, precision_and_recall
from d2_seesaw.evaluation.lvis.official import lvis_from_dict, working_lvis
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # read by the engines in Rust when they start

LIMIT = 300
Run = Callable[[], np.ndarray]
Prepare = Callable[[dict[str, Any], Detections, str], Run]


def ours(data: dict[str, Any], detections: Detections, task: str) -> Run:
    """Prepare this project's engine. Its arrays are built from the annotations in each run."""
    table = parse_text(msgspec.json.encode(data), "the dataset").table

    def run() -> np.ndarray:
        truth = GroundTruthColumns.from_table(table).of_task(task)
        limits = DetectionLimits(per_image=LIMIT)
        return precision_and_recall(match_detections(truth, detections, task, limits=limits))[0]

    return run


def ours_without_numba(data: dict[str, Any], detections: Detections, task: str) -> Run:
    """Prepare this project's engine as it is where numba is not installed."""
    evaluate = ours(data, detections, task)

    def run() -> np.ndarray:
        with mock.patch.object(mask_overlaps, "compiled_functions", return_value=None):
            return evaluate()

    return run


def lvis_api(data: dict[str, Any], detections: Detections, task: str) -> Run:
    """Prepare lvis-api, whose detections are prepared in each run, because it changes them."""
    truth, results = lvis_from_dict(copy.deepcopy(data)), list(detections.results(task))

    def run() -> np.ndarray:
        with working_lvis():
            own = [dict(result) for result in results]
            evaluation = LVISEval(truth, LVISResults(truth, own, LIMIT), task)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"]

    return run


def hotcoco_engine(data: dict[str, Any], detections: Detections, task: str) -> Run:
    """Prepare hotcoco, https://github.com/derekallman/hotcoco."""
    hotcoco = importlib.import_module("hotcoco")
    truth = hotcoco.COCO(_complete(data))
    if task == "bbox" and detections.boxes is not None:
        columns = (detections.image_ids, detections.boxes, detections.scores)
        found = truth.load_res(np.column_stack([*columns, detections.category_ids]))
    else:
        found = truth.load_res(list(detections.results(task)))
    return lambda: _coco_style(hotcoco.COCOeval(truth, found, task, lvis_style=True))


def ultrafast_pycocotools(data: dict[str, Any], detections: Detections, task: str) -> Run:
    """Prepare ultrafast-pycocotools."""
    coco = importlib.import_module("ultrafast_pycocotools.coco")
    cocoeval = importlib.import_module("ultrafast_pycocotools.cocoeval")
    truth = coco.COCO()
    truth.dataset = _complete(data)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(list(detections.results(task)))
    return lambda: _coco_style(cocoeval.COCOeval(truth, found, task, lvis_style=True))


def faster_coco_eval(data: dict[str, Any], detections: Detections, task: str) -> Run:
    """Prepare faster-coco-eval."""
    peer = importlib.import_module("faster_coco_eval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = peer.COCO(_complete(data))
        found = truth.loadRes(list(detections.results(task)))

    def run() -> np.ndarray:
        evaluation = peer.COCOeval_faster(truth, found, task, lvis_style=True)
        evaluation.params.maxDets = [LIMIT]
        return _coco_style(evaluation)

    return run


def vernier(data: dict[str, Any], detections: Detections, task: str) -> Run:
    """Prepare vernier, which reads detections as JSON, in each run."""
    instance = importlib.import_module("vernier.instance")
    truth = instance.CocoDataset.from_lvis_json(json.dumps(_complete(data)).encode())
    # It requires boxes beside masks, and would take their areas.
    found = json.dumps(list(detections.results("bbox" if task == "bbox" else None))).encode()
    name = "evaluate_bbox_grid" if task == "bbox" else "evaluate_segm_grid"
    options = {"parity_mode": "strict", "max_dets_per_image": LIMIT, "use_cats": True}
    options["dt_area"] = "bbox" if task == "bbox" else "mask"

    def run() -> np.ndarray:
        grid = getattr(instance, name)(truth, found, **options, num_threads=1)
        return np.asarray(grid.accumulate([LIMIT]).precision)[..., -1]

    return run


def _complete(data: dict[str, Any]) -> dict[str, Any]:
    """Add the fields of COCO that peers require."""
    return {
        "images": data["images"],
        "categories": [{"name": str(c["id"]), **c} for c in data["categories"]],
        "annotations": [{"iscrowd": 0, **a} for a in data["annotations"]],
    }


def _coco_style(evaluation: Any) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]


PEERS: dict[str, Prepare] = {
    "hotcoco": hotcoco_engine,
    "ultrafast-pycocotools": ultrafast_pycocotools,
    "faster-coco-eval": faster_coco_eval,
    "vernier": vernier,
}


def installed_peers() -> dict[str, Prepare]:
    """Return the peers that can be imported; print a line for each other one."""
    found = {}
    for name, prepare in PEERS.items():
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            print(f"{name} is left out: pip install {name}")
        else:
            found[name] = prepare
    return found
