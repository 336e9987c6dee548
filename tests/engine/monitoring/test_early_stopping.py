"""Early stopping. The oracles are closed forms of the rule, and trainings of the same length."""

import contextlib
import json
import logging
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import hooks
from detectron2.utils import comm

from d2_seesaw.checkpoint import StrictCheckpointer, choose_checkpoint
from d2_seesaw.data import RandomSampling, build_train_loader
from d2_seesaw.engine import BestCheckpoint, CheckpointHook, EarlyStopping, EMAHook, Trainer
from d2_seesaw.engine.monitoring.early_stopping import Patience
from d2_seesaw.engine.monitoring.metric import UnknownMetricError
from d2_seesaw.engine.run_records import EvaluationHook
from tests.engine.test_exact_resume import Net, Stopped, mapper, records
from tests.support.ranks import run_on_ranks

PERIOD = 2
VALUES = (0.1, 0.5, 0.4, 0.5, 0.45, 0.6, 0.3, 0.3, 0.3, 0.3)
"""Metric after 2, 4, ... steps: with a patience of 3, training ends after 10."""


def stop_of(values, patience, **options):
    """Return the number of evaluations after which the rule ends training, None if never."""
    rule = Patience(patience, **options)
    for number, value in enumerate(values, 1):
        rule.count(value, number)
        if rule.is_exhausted:
            return number
    return None


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("patience", [1, 2, 5])
def test_training_ends_once_the_first_best_value_is_as_old_as_the_patience(mode, patience):
    rng = np.random.default_rng(20261127)
    for _ in range(50):
        values = rng.integers(0, 8, 20)
        first_best = np.argmax if mode == "max" else np.argmin
        ages = [k - first_best(values[: k + 1]) for k in range(len(values))]
        expected = next((k + 1 for k, age in enumerate(ages) if age == patience), None)
        assert stop_of(values.tolist(), patience, mode=mode) == expected


@pytest.mark.parametrize(
    ("values", "options", "end"),
    [
        ([10, 10.5, 11.5, 12, 12.6], {"min_delta": 1}, None),  # small gains add up
        ([10, 10.5, 11, 11, 11], {"min_delta": 1}, 3),  # 11 is not more than 10 + 1
        ([10, 9.5, 9, 8.9], {"min_delta": 1, "mode": "min"}, 3),
        ([10, 9.5, 8.9, 8.9], {"min_delta": 1, "mode": "min"}, None),
        ([math.nan, math.nan], {}, 2),
        ([1, math.inf, math.nan], {}, 3),
        ([math.nan, 1, math.nan, 2], {}, None),
    ],
)
def test_least_improvements_and_values_that_are_not_finite(values, options, end):
    assert stop_of(values, 2, **options) == end


def test_an_evaluation_that_a_resumed_training_repeats_counts_once():
    rule = Patience(2)
    for steps in (2, 4, 4, 4):
        rule.count(1.0, steps)
    assert (rule.waited, rule.best_steps) == (1, 2)


def train(
    folder, *, patience=3, steps=20, resume=False, stop=None, metric="a/b", values=VALUES, ema=False
):
    """Train a tiny model as the command does, with an evaluation every second step."""
    torch.manual_seed(3)
    model = Net()
    sampling = RandomSampling(seed=2)
    data = build_train_loader(
        records(), mapper=mapper, sampling=sampling, total_batch_size=4, num_workers=0, seed=1
    )
    trainer = Trainer(model, data, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), seed=5)
    average = EMAHook(model, str(folder)) if ema else None
    checkpointer = StrictCheckpointer(model, str(folder), trainer=trainer)
    checkpoints = CheckpointHook(checkpointer, period=3, eval_period=PERIOD)

    def interrupt(trainer):
        if trainer.iter == stop:
            raise Stopped

    def evaluate():
        if comm.is_main_process():
            done = min(trainer.iter + 1, trainer.max_iter)
            return {"a": {"b": values[done // PERIOD - 1], "c": 0.0}}
        return {}

    best = BestCheckpoint(checkpointer, "a/b", eval_period=PERIOD)
    hook = None
    if patience is not None:
        at_end = (
            [checkpoints.save_final]
            if average is None
            else [average.save_final, checkpoints.save_final]
        )
        hook = EarlyStopping(metric, patience, eval_period=PERIOD, at_end=at_end)
    trainer.register_hooks([average, hooks.CallbackHook(before_step=interrupt), checkpoints])
    trainer.register_hooks_after_checkpoint(
        [EvaluationHook(PERIOD, evaluate, str(folder)), best, hook]
    )
    first = 0
    if resume and (path := choose_checkpoint(checkpointer)):
        checkpointer.resume(path)
        first = trainer.iter + 1
    with contextlib.suppress(Stopped):
        trainer.train(first, steps)
    return SimpleNamespace(trainer=trainer, model=model, hook=hook, steps=trainer.iter, first=first)


def equal(left, right):
    """Compare nested states bit by bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right or (left != left and right != right)


def final(folder, name="model_final.pth"):
    """Return the state of a checkpoint, the scalars aside."""
    content = torch.load(folder / name, weights_only=True)
    content["trainer"].pop("scalars", None)
    return content


def evaluations(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").open()]


def test_an_early_end_leaves_the_files_of_a_training_of_that_length(tmp_path, caplog):
    make(tmp_path, "early")
    with caplog.at_level(logging.INFO):
        early = train(tmp_path / "early", ema=True)
    assert early.steps == 10
    text = "Training stops early, after step 10 of 20: a/b has not improved in 3 evaluations; "
    assert f"{text}the best value was 0.5000 after step 4" in caplog.text
    assert (
        f"The best checkpoint is {tmp_path}/early/model_best.pth: a/b 0.5000 after" in caplog.text
    )
    make(tmp_path, "whole")
    train(tmp_path / "whole", patience=None, steps=10, ema=True)
    found, expected = final(tmp_path / "early"), final(tmp_path / "whole")
    assert found["trainer"]["hooks"].pop("EarlyStopping")["waited"] == 3
    assert equal(found, expected)
    average = [torch.load(tmp_path / n / "model_final_ema.pth") for n in ("early", "whole")]
    assert equal(*average)
    assert (tmp_path / "early/last_checkpoint").read_text() == "model_final.pth"
    assert evaluations(tmp_path / "early")[-1] == evaluations(tmp_path / "whole")[-1]
    assert [line["steps"] for line in evaluations(tmp_path / "early")] == [2, 4, 6, 8, 10]


def make(folder, name):
    os.makedirs(folder / name)


@pytest.mark.parametrize("stops", [(3, 7), (4, 10), (9,), (1, 2, 5)])
def test_a_training_in_parts_ends_after_the_same_step(tmp_path, stops):
    make(tmp_path, "parts")
    make(tmp_path, "whole")
    for number, stop in enumerate(stops):
        train(tmp_path / "parts", resume=number > 0, stop=stop)
    assert train(tmp_path / "parts", resume=True).steps == 10
    train(tmp_path / "whole")
    assert equal(final(tmp_path / "parts"), final(tmp_path / "whole"))
    assert equal(
        final(tmp_path / "parts", "model_best.pth"), final(tmp_path / "whole", "model_best.pth")
    )


def test_a_training_that_was_killed_before_its_last_checkpoint_ends_there(tmp_path):
    train(tmp_path)
    expected = final(tmp_path)
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").unlink()
    again = train(tmp_path, resume=True)
    assert (again.first, again.steps) == (10, 10)
    assert equal(final(tmp_path), expected)


def test_a_training_that_has_stopped_early_is_continued_only_with_a_larger_patience(
    tmp_path, caplog
):
    make(tmp_path, "run")
    make(tmp_path, "patient")
    run = tmp_path / "run"
    train(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    again = train(run, resume=True)
    assert (again.first, again.steps, again.model.batches) == (10, 10, [])
    assert "This training has stopped early, so nothing is trained: a/b has not" in caplog.text
    assert "give train.early_stopping.patience of at least 4, or train" in caplog.text
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    assert train(run, resume=True, patience=4, values=VALUES).steps == 20
    train(tmp_path / "patient", patience=4)
    assert equal(final(run), final(tmp_path / "patient"))


def test_a_smaller_patience_ends_a_resumed_training_with_its_last_checkpoint(tmp_path):
    train(tmp_path, stop=9)  # the evaluations after 6 and 8 steps were no better
    assert train(tmp_path, resume=True, patience=1).steps == 9
    saved = final(tmp_path)
    assert saved["iteration"] == saved["trainer"]["iteration"] == 8


def test_another_metric_starts_anew(tmp_path, caplog):
    train(tmp_path, stop=8)
    run = train(tmp_path, resume=True, metric="a/c", patience=5)
    assert run.steps == 18  # a/c is always 0: best after 8 steps
    assert "train.early_stopping followed a/b (max) before, and starts anew with a/c" in caplog.text


def test_a_metric_that_cannot_be_followed_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="metric=a/b needs evaluations during the training: give"):
        EarlyStopping("a/b", eval_period=0)
    line = "train.early_stopping.metric: the evaluation has no 'a/x', but a/b, a/c"
    with pytest.raises(UnknownMetricError, match=line):
        train(tmp_path, metric="a/x")


def test_a_patience_that_cannot_end_the_training_is_warned_about(tmp_path, caplog):
    train(tmp_path, patience=9)
    assert "has no effect in a training of 20 steps: it can end training after 20" in caplog.text


def _steps_of_a_rank(folder):
    return train(folder).steps, train(folder, resume=True).steps


def test_all_ranks_end_after_the_same_step(tmp_path):
    assert run_on_ranks(_steps_of_a_rank, tmp_path, world_size=2) == [(10, 10), (10, 10)]
