import argparse
import json
import os
import signal
import socket
import time

import pytest
import torch
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessException

from d2_seesaw.cli.train import argument_parser
from d2_seesaw.engine import Stopped, StopSignals, load_config, signals_waiting
from d2_seesaw.engine.launch import check_machine, launch_training, torch_device
from d2_seesaw.engine.ranks import processes as rank_processes
from d2_seesaw.engine.ranks.processes import run_ranks
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


def _leave_or_stay(args):
    if comm.get_rank() == args.stays:
        with signals_waiting():
            time.sleep(60)
    (args.folder / f"{comm.get_rank()}").touch()
    args.leave()


def _crash():
    raise ValueError("of rank 0")


def _interrupt():
    os.kill(os.getpid(), signal.SIGUSR1)


def _start_ranks(_, args, seconds):
    rank_processes.START_METHOD = "fork"
    rank_processes.STOP_SECONDS = rank_processes.CRASH_SECONDS = seconds
    try:
        with StopSignals():
            run_ranks(_leave_or_stay, args)
    except (Stopped, ProcessException) as end:
        (args.folder / "end").write_text(f"{type(end).__name__} {end}")
    assert (args.folder / "0").exists()


@pytest.mark.dist
@pytest.mark.parametrize(
    ("leave", "stays", "end"),
    [
        (_interrupt, 1, "Stopped 138"),  # rank 1 does not react
        (_interrupt, None, "Stopped 138"),
        (_crash, 1, "ProcessRaisedException"),
        (str, None, None),
    ],
)
def test_a_rank_that_leaves_ends_the_others_after_a_while(tmp_path, leave, stays, end):
    args = parse("--num-gpus", "2")
    args.folder, args.leave, args.stays = tmp_path, leave, stays
    run_processes(_start_ranks, (args, 0.3), world_size=1, timeout=30)
    if end is None:
        assert not (tmp_path / "end").exists()
        return
    assert (tmp_path / "end").read_text().startswith(end)
    assert ("of rank 0" in (tmp_path / "end").read_text()) == (leave is _crash)


def config(folder, *overrides):
    return load_config("quickstart/seesaw", [f"train.output_dir={folder}", *overrides])


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (["--num-gpus", "9"], [], "--num-gpus 9, but this machine has no GPU .* and 8 CPU cores"),
        (["--num-gpus", "-1"], [], "must be at least 0 and 1, got -1 and 1"),
        (["--machine-rank", "1"], [], r"--machine-rank must be from 0 to 0 .*, got 1"),
        (["--num-gpus", "3"], [], "total_batch_size is 8, which 3 processes cannot share equally"),
        (["--num-gpus", "3", "--auto-scale-lr"], ["train.reference_world_size=2"], None),
        ([], ["train.device=cuda"], "device 'cuda' is not available: there is no GPU"),
        ([], ["train.device=gpu"], "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--num-gpus", "2"], ["train.device=cpu"], None),
        (["--num-gpus", "3", "--eval-only"], [], None),
    ],
)
def test_what_the_machine_cannot_do_is_said_before_ranks_start(
    no_gpu, tmp_path, flags, overrides, message
):
    cfg, args = config(tmp_path, *overrides), parse(*flags)
    if message is None:
        check_machine(cfg, args)
        assert cfg.dataloader.train.total_batch_size == 8  # scaling is left to the ranks
        return
    with pytest.raises(ValueError, match=message):
        check_machine(cfg, args)


def test_ranks_of_torchrun_share_the_batch_too(no_gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "16")
    with pytest.raises(ValueError, match="is 8, which 16 processes"):
        check_machine(config(tmp_path), parse())


def test_an_output_folder_that_cannot_be_written_is_named(no_gpu, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"output_dir '.*file/run' cannot be written: Not a dir"):
        check_machine(config(tmp_path / "file/run"), parse())
    check_machine(config(tmp_path / "new/run"), parse())


def test_a_gpu_beyond_the_last_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("cuda:1").index == 1
    with pytest.raises(ValueError, match="'cuda:2' is not available: GPUs are numbered"):
        torch_device("cuda:2")
