"""Gloo ranks that each evaluate some of the images: three ranks, then two."""

import functools
from unittest import mock

import torch
import torch.distributed as dist
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from d2_seesaw.evaluation import LongTailLVISEvaluator, lvis_evaluator
from d2_seesaw.evaluation.predictions import limits
from d2_seesaw.evaluation.predictions.gather import DetectionLog
from d2_seesaw.report import write_evaluation_report
from tests.evaluation.lvis_data import ImageDetections, random_data, write_images, write_json
from tests.support.ranks import no_objects_between_ranks, run_on_ranks

NAME = "longtail_eval_test_ranks"
# Number of ranks by case.
CASES = {"halves": 2, "uneven": 3, "mask scores": 3, "fixed AP": 3, "some masks": 3, "error": 2}


def evaluate_on_ranks(folder):
    """Return by case the results of one process on all images, and the reports of the ranks.

    Files are written below CASE/alone by one process and below CASE/ranks by the ranks.
    """
    data, _ = random_data(seed=40)
    for image in data["images"]:
        image["id"] = _id_as_text(image["id"])
    for annotation in data["annotations"]:
        annotation["image_id"] = _id_as_text(annotation["image_id"])
    write_json(folder / "text.json", data)
    write_images(folder / "images", data)
    write_json(folder / "numbers.json", random_data(seed=40)[0])
    reports = {size: run_on_ranks(_on_rank, folder, world_size=size) for size in (3, 2)}
    alone = {
        case: _evaluate(case, folder, "alone", outputs_of_ranks(case), distributed=False)
        for case in CASES
        if case not in ("some masks", "error")
    }
    return alone, {case: [r[case] for r in reports[size]] for case, size in CASES.items()}


def _id_as_text(number):
    """Convert an id to a text of one of two lengths."""
    return f"image {number}" if number < 109 else f"{number}"


def outputs_of_ranks(case):
    """Return image ids and model outputs for each rank."""
    _, found = random_data(seed=40)
    outputs = [(d.image_id, d.as_model_output()) for d in found]
    if case == "halves":
        # Gathering in rank order keeps the order of the images, so ties in score break alike.
        return [outputs[:7], outputs[7:]]
    if case == "uneven":
        return [[], outputs_with_proposals(outputs[:9]), outputs_with_proposals(outputs[9:])]
    if case == "fixed AP":
        return [outputs[:4], outputs[4:6], outputs[6:]]
    if case == "some masks":
        return [
            outputs[:4],
            outputs[4:6],
            [(d.image_id, d.as_model_output(masks=False)) for d in found[6:]],
        ]
    for _, output in outputs[9:]:
        output["instances"].mask_scores = output["instances"].scores.flip(0)
    nothing = [(i, ImageDetections(i).as_model_output()) for i, _ in outputs[:2]]
    return [nothing, outputs[2:9], outputs[9:]]


def outputs_with_proposals(outputs):
    """Convert ids to text and add proposals; remove the instances of the second image."""
    torch.manual_seed(len(outputs))
    for i, (_, output) in enumerate(outputs):
        boxes = output["instances"].pred_boxes.tensor
        proposals = Instances(output["instances"].image_size)
        proposals.proposal_boxes = Boxes((boxes + torch.randn(len(boxes), 4)).repeat(3, 1))
        proposals.objectness_logits = torch.randn(3 * len(boxes))
        output["proposals"] = proposals
        if i == 1:
            del output["instances"]
    return [(_id_as_text(image_id), output) for image_id, output in outputs]


def _evaluate(case, folder, place, outputs, *, distributed):
    json_file = folder / ("text.json" if case == "uneven" else "numbers.json")
    image_root = str(folder / "images")
    MetadataCatalog.get(NAME).set(json_file=str(json_file), image_root=image_root)
    log = functools.partial(DetectionLog, images_per_block=2)
    try:
        with (
            mock.patch.object(limits, "FIXED_AP_DETECTIONS", 9),
            mock.patch.object(lvis_evaluator, "DetectionLog", log),
        ):
            evaluator = LongTailLVISEvaluator(
                NAME,
                distributed=distributed,
                output_dir=str(folder / case / place),
                fixed_ap=case == "fixed AP",
                report=write_evaluation_report if case == "uneven" else None,
            )
            for image_id, output in [pair for rank_pairs in outputs for pair in rank_pairs]:
                evaluator.process([{"image_id": image_id}], [output])
            with no_objects_between_ranks():
                results = evaluator.evaluate()
                assert str(evaluator.evaluate()) == str(results)
            return results
    finally:
        MetadataCatalog.remove(NAME)


def _on_rank(folder):
    rank, world_size = dist.get_rank(), dist.get_world_size()
    report = {}
    for case in [case for case, size in CASES.items() if size == world_size and case != "error"]:
        outputs = [outputs_of_ranks(case)[rank]]
        try:
            report[case] = _evaluate(case, folder, "ranks", outputs, distributed=True)
        except ValueError as error:
            report[case] = str(error)
    MetadataCatalog.get(NAME).set(json_file=str(folder / "numbers.json"))
    try:
        LongTailLVISEvaluator("only_here_missing" if rank == 1 else NAME)
    except Exception as error:
        report["error"] = str(error)
    finally:
        MetadataCatalog.remove(NAME)
    return report
