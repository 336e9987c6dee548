"""Gloo ranks that evaluate some of the images each: three of them, then the first two."""

import functools
import pickle
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from d2_seesaw.evaluation import LongTailLVISEvaluator, detection_limits, lvis_evaluation
from d2_seesaw.evaluation.detection_log import DetectionLog
from tests.evaluation.lvis_data import Detections, random_data, write_json

NAME = "longtail_eval_test_ranks"
CASES = {"halves": 2, "uneven": 3, "mask scores": 3, "fixed AP": 3, "some masks": 3}


def evaluate_on_ranks(folder):
    """For each of ``CASES`` the result of one process on all images, and the report of each rank.

    Files of one process lie in the folder named as the case and "alone", of ranks and "ranks".
    """
    data, _ = random_data(seed=40)
    for image in data["images"]:
        image["id"] = _id_as_text(image["id"])
    for annotation in data["annotations"]:
        annotation["image_id"] = _id_as_text(annotation["image_id"])
    write_json(folder / "text.json", data)
    write_json(folder / "numbers.json", random_data(seed=40)[0])
    mp.spawn(_on_rank, args=(folder,), nprocs=3)
    reports = [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(3)]
    alone = {
        case: _evaluate(case, folder, "alone", outputs_of_ranks(case), distributed=False)
        for case in CASES
        if case != "some masks"
    }
    return alone, reports


def _id_as_text(number):
    """Texts of two lengths."""
    return f"image {number}" if number < 109 else f"{number}"


def outputs_of_ranks(case):
    """For each rank, image ids and outputs of a model."""
    _, found = random_data(seed=40)
    outputs = [(d.image_id, d.as_model_output()) for d in found]
    if case == "halves":
        # Rank 0 gathers its own images first: the same order, so ties in score break the same way.
        return [outputs[:7], outputs[7:]]
    if case == "uneven":
        return [outputs_with_proposals(outputs[:9]), [], outputs_with_proposals(outputs[9:])]
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
    nothing = [(i, Detections(i).as_model_output()) for i, _ in outputs[:2]]
    return [nothing, outputs[2:9], outputs[9:]]


def outputs_with_proposals(outputs):
    """With text for ids, and proposals of all images but the second without instances."""
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
    MetadataCatalog.get(NAME).set(json_file=str(json_file))
    log = functools.partial(DetectionLog, images_per_block=2)
    try:
        with (
            mock.patch.object(detection_limits, "FIXED_AP_DETECTIONS", 9),
            mock.patch.object(lvis_evaluation, "DetectionLog", log),
        ):
            evaluator = LongTailLVISEvaluator(
                NAME,
                distributed=distributed,
                output_dir=str(folder / case / place),
                fixed_ap=case == "fixed AP",
            )
            for image_id, output in [pair for of_rank in outputs for pair in of_rank]:
                evaluator.process([{"image_id": image_id}], [output])
            with no_objects_between_ranks():
                results = evaluator.evaluate()
                assert str(evaluator.evaluate()) == str(results)
            return results
    finally:
        MetadataCatalog.remove(NAME)


def no_objects_between_ranks():
    """Lets what pickles objects for other ranks fail."""
    fail = mock.Mock(side_effect=AssertionError("an object is pickled"))
    names = [n for n in vars(dist) if n.endswith(("_object", "_object_list"))]
    assert {"all_gather_object", "gather_object", "send_object_list"} <= set(names)
    return mock.patch.multiple(dist, **dict.fromkeys(names, fail))


def _on_rank(rank, folder):
    torch.set_num_threads(1)
    report = {}
    for world_size in (3, 2):
        if rank < world_size:
            dist.init_process_group(
                "gloo", f"file://{folder}/store{world_size}", rank=rank, world_size=world_size
            )
            _report(report, rank, world_size, folder)
            # Detectron2 caches the group. Alive at exit, its threads abort the process in half of
            # the runs.
            comm._get_global_gloo_group.cache_clear()
            dist.destroy_process_group()
    (folder / f"{rank}.pkl").write_bytes(pickle.dumps(report))


def _report(report, rank, world_size, folder):
    for case in [case for case, ranks in CASES.items() if ranks == world_size]:
        outputs = [outputs_of_ranks(case)[rank]]
        try:
            report[case] = _evaluate(case, folder, "ranks", outputs, distributed=True)
        except ValueError as error:
            report[case] = str(error)
    if world_size == 2:
        MetadataCatalog.get(NAME).set(json_file=str(folder / "numbers.json"))
        try:
            LongTailLVISEvaluator("only_here_missing" if rank == 1 else NAME)
        except Exception as error:
            report["error"] = str(error)
