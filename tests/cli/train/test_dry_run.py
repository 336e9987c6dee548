"""`d2-seesaw train --dry-run`: its arithmetic, its choice of images, and what it leaves behind."""

import errno
import itertools
import re
from types import SimpleNamespace

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch

from d2_seesaw.cli.train import dry_run, timing
from d2_seesaw.cli.train.forecast import Forecast, Measured, Plan, duration, size
from d2_seesaw.cli.train.samples import (
    TestImages,
    at_largest_size,
    candidates,
    largest_batch,
    padded_pixels,
)
from d2_seesaw.cli.train.timing import EvaluationTimer, StepTimer
from d2_seesaw.data.bad_images import MappedDataset
from d2_seesaw.data.loader import wide_images
from d2_seesaw.engine import Trainer
from d2_seesaw.evaluation import LongTailLVISEvaluator
from d2_seesaw.utils import files
from tests.cli.train.test_command import line_of, without_masks
from tests.support.tiny_training import build

PLAN = Plan(
    steps=1000,
    eval_period=300,
    period=250,
    max_to_keep=2,
    keeps_best=True,
    ranks=2,
    test_images=101,
)
MEASURED = Measured(
    start=7.0,
    steps=[0.5, 0.25, 0.75],
    image=0.125,
    scoring=2.0,
    save=0.5,
    checkpoint=3_000_000,
    average=1_000_000,
    memory=400_000_000,
    workers=100_000_000,
    memory_free=2_000_000_000,
    disk_free=10_000_000,
)


def test_the_forecast_is_the_sum_of_its_parts():
    forecast = Forecast(PLAN, MEASURED)
    assert PLAN.evaluations == 4  # after 300, 600, 900 and 1000 steps
    assert PLAN.periodic == 7  # after 250, 300, 500, 600, 750, 900 and 1000 steps
    assert (PLAN.saved, PLAN.kept) == (7 + 1 + 4, 2 + 1 + 1)
    assert forecast.training == 1000 * 0.5
    assert forecast.evaluation == 51 * 0.125 + 2.0  # of 101 images, a rank has at most 51
    assert forecast.total == 7.0 + 500 + 4 * 8.375 + 12 * 0.5
    assert forecast.disk == 5 * 3_000_000 + 1_000_000
    assert forecast.memory == 2 * 500_000_000
    assert Forecast(PLAN, MEASURED, on_gpu=True).memory == 500_000_000
    assert forecast.warnings() == ["disk space: 16 MB needed, 10 MB free"]
    lines = [" ".join(line.split()) for line in forecast.lines()]
    assert "total time 9 min 6 s" in lines
    assert any(x.startswith("training 8 min 20 s 1000 steps of 0.5 s (0.25 to") for x in lines)


@pytest.mark.parametrize(
    ("changes", "evaluations", "periodic"),
    [
        ({"eval_period": 0}, 1, 4),
        ({"eval_period": 250}, 4, 4),
        ({"eval_period": 500, "period": 400}, 2, 3),
        ({"steps": 100}, 1, 0),
    ],
)
def test_evaluations_and_checkpoints_are_counted_as_the_hooks_make_them(
    changes, evaluations, periodic
):
    plan = Plan(**{**vars(PLAN), **changes})
    done = range(1, plan.steps + 1)
    evaluated = {n for n in done if plan.eval_period and n % plan.eval_period == 0} | {plan.steps}
    saved = {n for n in done if n % plan.period == 0} | (evaluated - {plan.steps})
    assert (plan.evaluations, plan.periodic) == (len(evaluated), len(saved))
    assert (plan.evaluations, plan.periodic) == (evaluations, periodic)


def test_slow_loading_decides_the_time_of_a_step_and_is_said():
    measured = Measured(steps=[1.0], loading=2.0)
    forecast = Forecast(PLAN, measured)
    assert forecast.training == 2000
    assert forecast.warnings()[0].startswith("loading a batch takes 2.0 s, longer than a step")


def test_times_and_sizes_are_given_with_their_units():
    seconds = [0.004, 0.96, 59.9, 61, 3599, 3600, 90061, 300000]
    texts = ["0.00 s", "1.0 s", "59.9 s", "1 min 1 s", "1 h 0 min", "1 h 0 min", "25 h 1 min"]
    assert [duration(s) for s in seconds] == [*texts, "3 days 11 h"]
    assert [size(n) for n in (0, 999, 1234, 5e9)] == ["0 B", "999 B", "1.23 kB", "5 GB"]


def test_steps_are_timed_after_the_warm_up_until_they_are_enough(tmp_path, monkeypatch):
    times = itertools.count()  # a step from one reading to the next
    trainer, _ = build(tmp_path)
    timer = StepTimer(lambda: next(times) ** 2, 100)
    trainer.register_hooks([timer])
    monkeypatch.setattr(timing, "SECONDS", 40)
    trainer.train(0, 50)
    # Steps take 1, 5, 9, 13, 17 s: the first two do not count, and 9 + 13 + 17 is at least 40 - 1.
    assert timer.steps == [9, 13, 17, 21]
    assert trainer.iter == trainer.max_iter == 6


def test_an_image_is_timed_without_the_first_ones_and_the_largest_ones():
    readings = iter([10, 20, 21, 22, 23, 90])
    evaluator: object = SimpleNamespace(reset=lambda: None, process=lambda inputs, outputs: None)
    timer = EvaluationTimer(evaluator, lambda: next(readings))
    evaluator.reset()
    for images in (1, 1, 2, 2, 2, 1):
        evaluator.process([None] * images, None)
    assert timer.result(100, 5) == (3 / 6, 100 - 80)


class Shape:
    """Mapper that resizes and crops an image of a record's size."""

    def __init__(self, augmentations):
        self.augmentations = T.AugmentationList(augmentations)

    def __call__(self, record):
        image = np.zeros((record["height"], record["width"], 3), np.uint8)
        augmented = T.AugInput(image)
        self.augmentations(augmented)
        return {"image": torch.from_numpy(augmented.image.transpose(2, 0, 1).copy())}


RESIZE = T.ResizeShortestEdge([32, 40, 48], 80, "choice")


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(
    ("augmentations", "largest"),
    [
        ([RESIZE], [T.ResizeShortestEdge([48], 80, "choice")]),
        ([T.ResizeShortestEdge([32, 48], 80, "range")], [T.ResizeShortestEdge([48], 80, "choice")]),
        ([T.RandomApply(RESIZE), T.RandomFlip()], None),
        (
            [T.ResizeScale(0.1, 2.0, 30, 30), T.FixedSizeCrop((30, 30), pad=False)],
            [T.ResizeScale(2.0, 2.0, 30, 30), T.FixedSizeCrop((30, 30), pad=False)],
        ),
        ([], []),
    ],
)
def test_no_batch_of_the_data_has_more_pixels_than_the_largest_batch(
    grouped, augmentations, largest
):
    rng = np.random.default_rng(3)
    records = [
        {"width": int(w), "height": int(h), "annotations": [{}] * int(n)}
        for w, h, n in zip(*rng.integers(20, 120, (2, 60)), rng.integers(0, 5, 60), strict=True)
    ]
    wide = wide_images(records) if grouped else None
    batch = largest_batch(MappedDataset(records, Shape(augmentations), is_wide=wide), 4)
    assert len(batch) == 4
    if largest is None:  # the resize is found inside of another augmentation
        (inner, _) = at_largest_size(Shape(augmentations)).augmentations.augs
        assert inner.aug.short_edge_length == [48, 48]
        return
    groups = [records]
    if wide is not None:
        groups = [[r for r, w in zip(records, wide, strict=True) if w == is_] for is_ in (0, 1)]
    mapper = Shape(largest)
    most = max(padded_pixels([mapper(r) for r in group]) / len(group) for group in groups)
    assert 0.9 * most <= padded_pixels(batch) / 4 <= most
    assert RESIZE.short_edge_length == [32, 40, 48]  # the training is not changed


def test_candidates_are_few_and_without_a_group_none():
    sizes = np.random.default_rng(0).integers(100, 2000, (100_000, 2))
    assert len(candidates(sizes, np.arange(100_000))) <= 10
    assert candidates(sizes, np.arange(0)) == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_rank_evaluates_random_images_and_then_the_largest_ones(ranks):
    records = [
        {"image_id": i, "width": 10, "height": 10 + (i >= 100 - 2 * ranks)} for i in range(100)
    ]
    chosen = TestImages(records, ranks)
    ids = [chosen[i]["image_id"] for i in range(len(chosen))]
    assert len(set(ids)) == len(ids) == 10 * ranks
    for part in np.split(np.array(ids), ranks):
        assert [i >= 100 - 2 * ranks for i in part] == [False] * 8 + [True] * 2
    assert len(TestImages(records[:7], ranks)) == 7


@pytest.mark.parametrize("ema", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_part_is_tried_and_nothing_is_left_behind(own, tmp_path, capsys, ema):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model_final.pth").write_bytes(b"of a training")
    metric = "ema/bbox/AP" if ema else "bbox/AP"
    options = ["train.max_iter=5", f"train.best_checkpoint.metric={metric}s0"]
    options += ["train.eval_period=2", f"train.ema.enabled={ema}"]
    assert own("--dry-run", *options, change=without_masks) == 0
    output = capsys.readouterr().out
    for text in (
        "The dry run of ",
        "  training ",
        "5 steps of ",
        "3 of 4 images",
        "The largest batch has 2 images of ",
        f"Warning: train.best_checkpoint.metric: the evaluation gave no '{metric}s0', but bbox/AP",
        f"{metric}, ",
    ):
        assert text in output
    assert [path.name for path in run.iterdir()] == ["model_final.pth"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".dry_run")]


def raises(error):
    def call(*_, **__):
        raise error

    return call


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "error", "line"),
    [
        (dry_run, "build_run", ValueError("no\nmodel"), "in loading: no model"),
        (Trainer, "_reduce", None, "in a training step: losses or gradients are not finite at"),
        pytest.param(
            files.os,
            "fsync",
            FULL,
            "in saving a checkpoint: .*model_final.pth cannot be written: No space",
            marks=pytest.mark.slow,
        ),
        (
            LongTailLVISEvaluator,
            "evaluate",
            KeyError("x"),
            r"in the evaluation: KeyError: 'x' \(.*test_dry_run.py, line",
        ),
        pytest.param(
            dry_run,
            "load_checkpoint",
            ValueError("other"),
            "in reloading the checkpoint: other",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_failure_is_one_line_that_names_the_part(
    own, tmp_path, monkeypatch, capsys, owner, name, error, line
):
    fails = (lambda *_: float("nan")) if error is None else raises(error)
    monkeypatch.setattr(owner, name, fails)
    text = line_of(own, "--dry-run", change=without_masks)
    assert re.search(f"^d2-seesaw train: the dry run failed {line}", text), text
    assert not (tmp_path / "run").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".dry_run")]
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_folder_that_cannot_be_made_is_one_line(own):
    line = line_of(own, "--dry-run", "train.output_dir=/dev/null/x")
    assert "train.output_dir '/dev/null/x' cannot be written: Not a directory" in line


@pytest.mark.parametrize("flag", ["--resume", "--eval-only"])
def test_flags_of_other_runs_are_refused(own, flag):
    assert f"leave out {flag}" in line_of(own, "--dry-run", flag)
