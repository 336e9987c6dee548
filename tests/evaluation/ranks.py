"""Two gloo ranks that evaluate half of the images each."""

import pickle

import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from d2_seesaw.evaluation import LongTailLVISEvaluator
from tests.evaluation.lvis_data import random_data, run_evaluator, write_json

NAME = "longtail_eval_test_ranks"


def evaluate_on_two_ranks(folder):
    """Result of one process on all images, and the report of each rank."""
    data, detections = random_data(seed=40)
    json_file = write_json(folder / "gt.json", data)
    # Rank 0 gathers its own images first: the same order, so that ties in score break the same way.
    halves = [detections[:7], detections[7:]]
    mp.spawn(_on_rank, args=(folder, json_file, halves), nprocs=2)
    reports = [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(2)]
    MetadataCatalog.get(NAME).set(json_file=str(json_file))
    try:
        alone = run_evaluator(LongTailLVISEvaluator(NAME, distributed=False), detections)
    finally:
        MetadataCatalog.remove(NAME)
    return alone, reports


def _on_rank(rank, folder, json_file, halves):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    MetadataCatalog.get(NAME).set(json_file=str(json_file))
    report = {"results": run_evaluator(LongTailLVISEvaluator(NAME), halves[rank])}
    try:
        LongTailLVISEvaluator("only_here_missing" if rank == 1 else NAME)
    except Exception as error:
        report["error"] = str(error)
    (folder / f"{rank}.pkl").write_bytes(pickle.dumps(report))
    # Detectron2 caches the group. Alive at exit, its threads abort the process in half of the runs.
    comm._get_global_gloo_group.cache_clear()
    dist.destroy_process_group()
