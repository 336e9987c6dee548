"""`d2-seesaw train`: mistakes are one line, and data without masks train boxes."""

import os
import signal
import sys

import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from d2_seesaw.cli import RunError, train
from d2_seesaw.engine import load_config
from d2_seesaw.engine.boxes_only import boxes_only, masks_left_out
from d2_seesaw.utils.folder_lock import LOCK_NAME, folder_lock
from tests.support.configs import build_model

MASK_CONFIGS = [
    "quickstart/seesaw",
    "quickstart/cascade",
    "quickstart/htc_lite",
    "quickstart/htc",
    pytest.param("coco/htc_lite_r50_fpn_1x", marks=pytest.mark.slow),
    pytest.param("challenge/step09_seesaw", marks=pytest.mark.slow),
]


def line_of(call, *arguments, **options):
    with pytest.raises(SystemExit) as end:
        call(*arguments, **options)
    assert isinstance(end.value.code, str)  # printed to stderr, with status 1
    assert end.value.code.startswith("d2-seesaw train: ")
    assert "\n" not in end.value.code
    return end.value.code


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optimizer.lr=abc", "optimizer.lr must be a number"),
        ("train.device=cuda", "there is no GPU"),
        ("dataloader.train.total_batch_size=0", "a whole number of at least 1"),
        ("train.output_dir=/dev/null/x", "train.output_dir '/dev/null/x' cannot be written"),
        ("--num-gpus=100000", "--num-gpus 100000, but this machine has"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(own, monkeypatch, argument, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(train, "launch_training", lambda *_: pytest.fail("started"))
    assert message in line_of(own, argument)


def test_a_folder_in_use_is_refused_before_anything_is_written(own, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "launch_training", lambda *_: pytest.fail("started"))
    with folder_lock(tmp_path / "run"):
        assert "run' is in use by this process" in line_of(own)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK_NAME]


def test_a_dataset_of_a_python_config_is_explained(own):
    line = line_of(own, "dataloader.test.dataset.names=mine")
    assert "'mine' is not registered" in line
    assert "--config-file my_config.py" in line


def test_training_data_without_annotations_are_one_line(own):
    line = line_of(own, change=lambda data: data.update(annotations=[]))
    assert "cannot be used: 1 problem: it has no annotations" in line


def test_missing_images_are_one_line_before_the_first_step(own):
    line = line_of(own, after=lambda folder: (folder / "images/part/90.png").unlink())
    assert "1 of 4 files of the training data do not exist" in line
    assert "part/90.png" in line


def damage(*names):
    def cut(folder):
        for name in names:
            path = folder / f"images/part/{name}.png"
            path.write_bytes(path.read_bytes()[:200])

    return cut


def test_a_damaged_image_is_one_line(own):
    line = line_of(own, "train.max_iter=9", after=damage(3, 5, 12, 90))
    assert "cannot be used: " in line
    assert "image file is truncated; train.max_bad_images=N" in line


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_image_of_the_test_data_is_named(own, tmp_path, workers):
    assert own(change=without_masks) == 0
    start = f"train.init_checkpoint={tmp_path}/run/model_final.pth"
    more = f"dataloader.test.num_workers={workers}"
    line = line_of(own, "--eval-only", start, more, change=without_masks, after=damage(12))
    assert "an image cannot be used: " in line
    assert "part/12.png (image id 12): image file is truncated" in line


def test_a_flag_behind_overrides_is_named():
    line = line_of(train.main, ["--config-file", "quickstart/seesaw", "train.seed=1", "--resume"])
    assert line.endswith("the flag --resume must stand before KEY=VALUE arguments")


def without_masks(data):
    for annotation in data["annotations"]:
        del annotation["segmentation"]


def test_data_without_masks_train_and_evaluate_boxes(own, tmp_path):
    assert own(change=without_masks) == 0
    last = (tmp_path / "run/metrics.json").read_text().splitlines()[-1]
    assert "bbox/AP" in last
    assert "segm/AP" not in last
    saved = load_config(str(tmp_path / "run/config.yaml"))
    assert masks_left_out(saved)
    weights = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    assert not any("mask_head" in name for name in weights)
    start = f"train.init_checkpoint={tmp_path}/run/model_final.pth"
    assert own("--eval-only", start, change=without_masks) == 0


@pytest.mark.parametrize("name", MASK_CONFIGS)
def test_every_kind_of_mask_head_can_be_left_out(name):
    cfg = boxes_only(load_config(name))
    model = build_model(cfg)
    assert not model.roi_heads.mask_on
    assert cfg.dataloader.evaluator.tasks == ["bbox"]
    assert not cfg.dataloader.train.mapper.use_instance_mask


def test_an_interruption_promises_to_resume_only_a_run_that_saved_a_checkpoint(
    own, monkeypatch, tmp_path
):
    last = tmp_path / "last_checkpoint"
    saves = False

    def interrupt(*_):
        if saves:
            last.write_text("model_0.pth")
        os.kill(os.getpid(), signal.SIGINT)

    cfg = load_config("quickstart/seesaw", [f"train.output_dir={tmp_path}"])
    monkeypatch.setattr(train, "launch_training", interrupt)
    monkeypatch.setattr(train, "read_config", lambda args: cfg)
    monkeypatch.setattr(train, "check_machine", lambda *_: None)
    said = []
    monkeypatch.setattr("d2_seesaw.engine.stop.write_line", said.append)

    def resumes(*arguments):
        assert own(*arguments) == 130
        return "Continue with: d2-seesaw train --resume --config-file" in said[-1]

    torch.save({"trainer": {"iteration": 4}}, tmp_path / "model_0.pth")
    assert not resumes()  # before the first checkpoint
    last.write_text("model_0.pth")
    os.utime(last, (0, 0))
    assert not resumes()  # the checkpoint of an earlier run
    assert not resumes("--eval-only", "train.init_checkpoint=x")
    assert said[-1] == "SIGINT: the evaluation was not finished; it saves nothing"
    assert resumes("--resume")
    saves = True
    assert resumes()
    assert "model_0.pth, step 5 of 600. Continue" in said[-1]
    (tmp_path / "model_0.pth").unlink()
    assert not resumes()  # the checkpoint is not there


@pytest.mark.parametrize(
    ("called", "first", "command"),
    [
        (
            ["/env/bin/python3", "/env/bin/d2-seesaw", "train", "a=1 2"],
            3,
            "d2-seesaw train --resume 'a=1 2'",
        ),
        (["python", "train_net.py", "--restart", "a=1"], 2, "python train_net.py --resume a=1"),
        (
            ["python", "-m", "d2_seesaw", "train", "--resume"],
            4,
            "python -m d2_seesaw train --resume",
        ),
    ],
)
def test_the_command_to_continue_is_the_given_one_with_resume(called, first, command, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", called)
    assert train.command_to_continue(called[first:]) == command
    assert train.command_to_continue(["b=2"]) == "d2-seesaw train --resume b=2"  # from Python


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Traceback ...\nd2_seesaw.cli.RunError: no images\n", "d2-seesaw train: no images"),
        ("Traceback ...\nKeyError: 3\n", None),
    ],
)
def test_an_expected_error_of_a_rank_is_one_line_too(own, monkeypatch, text, line):
    def fails(*_):
        raise ProcessRaisedException(text, 0, 1)

    monkeypatch.setattr(train, "launch_training", fails)
    if line is None:
        with pytest.raises(ProcessRaisedException):
            own()
    else:
        assert line_of(own) == line


def test_out_of_memory_is_one_line(own, monkeypatch):
    def fails(*_):
        raise RunError("out of memory (cpu) at iteration 0")

    monkeypatch.setattr(train, "launch_training", fails)
    assert line_of(own).startswith("d2-seesaw train: out of memory")
