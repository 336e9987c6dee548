import argparse
import json
import os
import socket

import pytest
import torch
from detectron2.utils import comm

from d2_seesaw.cli.train import argument_parser
from d2_seesaw.engine.launch import launch_training
from tests.support.ranks import run_processes


def parse(*arguments):
    return argument_parser().parse_args(["--config-file", "x.py", *arguments])


def test_flags_match_detectron2():
    args = parse("--num-gpus", "2", "--resume", "--eval-only", "train.seed=1", "model.x=2")
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (2, 1, 0)
    assert args.resume
    assert args.eval_only
    assert args.opts == ["train.seed=1", "model.x=2"]
    assert not args.auto_scale_lr


def test_one_process_calls_main_directly():
    called = []
    launch_training(called.append, args := parse())
    assert called == [args]


def test_more_gpus_than_available_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--num-gpus 8, but this machine has 2"):
        launch_training(print, parse("--num-gpus", "8"))


def test_several_machines_need_a_dist_url():
    with pytest.raises(ValueError, match="--num-machines needs --dist-url"):
        launch_training(print, parse("--num-machines", "2"))


def _write_sum_of_ranks(args):
    ranks = torch.tensor(comm.get_rank() + 1)
    torch.distributed.all_reduce(ranks)
    found = [comm.get_world_size(), comm.get_local_rank(), ranks.item()]
    (args.folder / f"{comm.get_rank()}.json").write_text(json.dumps(found))


def _run_rank_as_torchrun(rank, port, folder):
    os.environ |= {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    launch_training(_write_sum_of_ranks, argparse.Namespace(folder=folder))


@pytest.mark.dist
def test_ranks_started_by_torchrun_join_one_process_group_and_leave_it(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run_processes(_run_rank_as_torchrun, (port, tmp_path), world_size=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found == [[2, 0, 3], [2, 1, 3]]
