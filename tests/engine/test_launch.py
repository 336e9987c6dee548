import pytest
import torch

from d2_seesaw.cli.train import argument_parser
from d2_seesaw.engine.launch import launch_training


def parse(*arguments):
    return argument_parser().parse_args(["--config-file", "x.py", *arguments])


def test_flags_are_detectron2s_with_the_same_meaning():
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


def test_more_gpus_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--num-gpus 8, but this machine has 2"):
        launch_training(print, parse("--num-gpus", "8"))


def test_several_machines_need_a_dist_url():
    with pytest.raises(ValueError, match="--num-machines needs --dist-url"):
        launch_training(print, parse("--num-machines", "2"))
