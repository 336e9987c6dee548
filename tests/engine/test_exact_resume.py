"""Resumed trainings of a tiny model. The oracle is the same training without an interruption."""

import contextlib
import itertools
import json
import logging
import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.checkpoint import Checkpointer
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, get_event_storage
from torch import nn

from d2_seesaw.data import RandomSampling, RepeatFactorSampling, build_train_loader
from d2_seesaw.data.batch_order import BatchOrder, Section
from d2_seesaw.engine import Trainer
from d2_seesaw.engine.rank_state import RankState
from d2_seesaw.engine.run_records import EvaluationHook, ResumedMetricsFile
from d2_seesaw.utils.random_state import seed_generators
from tests.support.ranks import run_on_ranks

STEPS = 12


def records(count=10):
    """Make records of both orientations; images of class 1 are rare."""
    return [
        {
            "image_id": i,
            "width": 4 + i % 2,
            "height": 5 - i % 2,
            "annotations": [{"category_id": int(i == 0)}],
        }
        for i in range(count)
    ]


def mapper(record):
    """Draw from all generators; leave out an image in some of its draws."""
    if record["image_id"] == 3 and random.random() < 0.5:
        return None
    draws = [random.random(), *np.random.rand(2), *torch.rand(2).tolist()]
    return {"x": torch.tensor([record["image_id"], *draws], dtype=torch.float32)}


class Net(nn.Module):
    """A model with random numbers and statistics, which records what it is shown."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(10, dtype=torch.int64))
        self.batches = []

    def forward(self, batch):
        x = torch.stack([image["x"] for image in batch])
        self.batches.append(x)
        self.seen += torch.bincount(x[:, 0].long(), minlength=10)
        storage = get_event_storage()
        storage.put_scalar("mean", float(x.mean()))
        return {"loss": self.head(self.layers(x)).square().mean()}


def loader(data=None, **options):
    options = {
        "mapper": mapper,
        "sampling": RepeatFactorSampling(0.5),
        "total_batch_size": 4,
        "num_workers": 0,
        **options,
    }
    return build_train_loader(records() if data is None else data, **options)


class Stopped(BaseException):
    """Interruption of a training."""


def score(model):
    """Evaluate with random numbers."""
    return {
        "a": {"b": float(model.head.weight.detach().sum()) + random.random() + float(torch.rand(1))}
    }


def train(
    folder,
    *,
    resume=False,
    stop=None,
    steps=STEPS,
    evaluate=score,
    test="",
    prefetch=False,
    **options,
):
    """Train to the end, or until before a step. Checkpoints follow every third step.

    Only a new training is given seeds; a resumed one draws others.
    """
    torch.seed() if resume else torch.manual_seed(3)
    if not resume:
        options = {"seed": 1, "sampling": RepeatFactorSampling(0.5, seed=2), **options}
    model = Net()
    data = loader(**options)
    data.prefetch_device = torch.device("cpu") if prefetch else None
    trainer = Trainer(
        model,
        data,
        torch.optim.AdamW(model.parameters(), lr=0.1),
        seed=None if resume else 5,
    )
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)

    def interrupt(trainer):
        if trainer.iter == stop:
            raise Stopped

    trainer.register_hooks(
        [hooks.CallbackHook(before_step=interrupt), hooks.PeriodicCheckpointer(checkpointer, 3)]
    )
    checkpointer.resume_or_load("", resume=resume)
    first = trainer.iter + 1 if resume else 0
    path = folder / "metrics.json"
    writer = ResumedMetricsFile(path, first - 1) if resume else JSONWriter(str(path))
    evaluation = EvaluationHook(3, lambda: evaluate(model), str(folder), test)
    trainer.register_hooks_after_checkpoint([evaluation, hooks.PeriodicWriter([writer], 4)])
    with contextlib.suppress(Stopped):
        trainer.train(first, steps)
    return SimpleNamespace(trainer=trainer, model=model, first=first, folder=folder)


def train_in_parts(folder, parts, **options):
    """Stop before the given steps and resume, with a number of workers for each part."""
    shown, run = {}, None
    for number, (stop, workers) in enumerate(parts):
        run = train(folder, resume=number > 0, stop=stop, num_workers=workers, **options)
        shown |= dict(enumerate(run.model.batches, run.first))
    assert run is not None
    run.model.batches = [shown[step] for step in sorted(shown)]
    return run


def metrics(folder):
    """Return the lines of metrics.json in the order of steps, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").open()]
    kept = [{k: v for k, v in line.items() if not k.endswith("_time")} for line in lines]
    return sorted(kept, key=lambda line: line["iteration"])


def differences(run, straight):
    """Return what differs between two runs."""
    states = []
    for trainer in (run.trainer, straight.trainer):
        averages = [v for state in trainer.optimizer.state.values() for v in state.values()]
        states.append([*trainer.model.state_dict().values(), *averages])
    same = {
        "batches": torch.equal(torch.stack(run.model.batches), torch.stack(straight.model.batches)),
        "state": all(itertools.starmap(torch.equal, zip(*states, strict=True))),
        "metrics": metrics(run.folder) == metrics(straight.folder),
        "evaluations": evaluations(run.folder) == evaluations(straight.folder),
    }
    return {name for name, is_same in same.items() if not is_same}


def evaluations(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").open()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return train(tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize(
    ("workers", "prefetch"),
    [((0, 0, 0, 0), False), ((2, 0, 3, 1), False), ((0, 1, 0, 2), True)],
)
def test_a_training_in_four_parts_equals_one_in_one_part(straight, workers, prefetch, tmp_path):
    parts = zip((4, 8, 10, None), workers, strict=True)
    run = train_in_parts(tmp_path, parts, prefetch=prefetch)
    assert differences(run, straight) == set()
    assert [line["iteration"] for line in metrics(tmp_path)] == [2, 3, 5, 7, 8, 11, 12]


@pytest.mark.parametrize("lost", ["position", "seed", "order_seed"])
def test_a_lost_position_or_seed_is_detected_by_these_tests(straight, lost, tmp_path):
    train(tmp_path, stop=4)
    path = tmp_path / "model_0000002.pth"
    checkpoint = torch.load(path)
    data = checkpoint["trainer"]["resume"]["data"]
    data |= {"sections": [[1, 4, 0]]} if lost == "position" else {lost: data[lost] + 1}
    torch.save(checkpoint, path)
    run = train(tmp_path, resume=True)
    run.model.batches = straight.model.batches[:3] + run.model.batches
    assert {"batches", "state"} <= differences(run, straight)


def test_the_mapper_does_not_disturb_the_generators_of_the_main_process():
    stream = iter(loader())
    seed_generators(1)
    expected = [random.random(), np.random.rand(), float(torch.rand(1))]
    seed_generators(1)
    next(stream)
    assert [random.random(), np.random.rand(), float(torch.rand(1))] == expected


@pytest.mark.slow
@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_any_start_method_of_the_workers_gives_the_same_batches(context):
    seeds = {"seed": 1, "sampling": RandomSampling(2)}
    plain = list(itertools.islice(loader(**seeds), 4))
    options = {"num_workers": 1, "multiprocessing_context": context}
    started = list(itertools.islice(loader(**seeds, **options), 4))
    images = [[image["x"] for batch in batches for image in batch] for batches in (plain, started)]
    assert torch.equal(*map(torch.stack, images))


def _kill_own_process(record):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    return {"x": 1}


def test_workers_survive_a_signal_to_the_process_group():
    stream = loader(mapper=_kill_own_process, num_workers=1, prefetch_factor=1)
    assert next(iter(stream)) == [{"x": 1}] * 4


@pytest.mark.parametrize("before", [(2, 2), (4, 1), (1, 4), (3, 3)])
@pytest.mark.parametrize("after", [(1, 4), (2, 3)])
@pytest.mark.parametrize("is_grouped", [True, False])
def test_other_ranks_or_batch_sizes_show_each_image_once_an_epoch(before, after, is_grouped):
    rng = np.random.default_rng(0)
    indices = np.concatenate([rng.permutation(60) for _ in range(8)]).tolist()
    is_wide = rng.random(60) < 0.3 if is_grouped else None

    def read(section, count, state=None):
        samples, order = [], None
        for rank in range(section[0]):
            order = BatchOrder(lambda _: iter(indices), 0, Section(*section), rank, is_wide)
            if state is not None:
                order.load_state_dict(state)
            for batch in itertools.islice(order, count):
                order.count_batch()
                assert len(batch) == section[1]
                samples += batch
        assert order is not None
        return samples, order

    first, order = read(before, 5)
    assert order.images_read == len(first) == 5 * before[0] * before[1]
    second, order = read(after, 20, order.state_dict())
    assert order.images_read == len(first + second)
    assert len(set(first + second)) == len(first + second)  # none twice
    assert set(first + second) <= set(enumerate(indices))
    until = len(first) if is_grouped else len(first + second)  # the last ones may wait in a group
    assert set(range(until)) <= {position for position, _ in first + second}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_batch_size": 2}, "batches of 2 instead of 4 images"),
        ({"data": records(11)}, "another dataset"),
        ({"sampling": RepeatFactorSampling(0.6)}, "another sampling"),
        ({"aspect_ratio_grouping": False}, "another sampling"),
    ],
)
def test_a_changed_training_goes_on_at_its_position_with_one_warning(
    options, message, tmp_path, caplog
):
    train(tmp_path, stop=4)
    with caplog.at_level(logging.WARNING):
        resumed = train(tmp_path, resume=True, steps=4, **options)
    (warning,) = [r.getMessage() for r in caplog.records]
    assert f"bit for bit: {message}" in warning
    order = resumed.trainer.data_loader.order
    assert order.images_read == 12 + order.sections[-1].batch_size


def test_a_given_seed_that_differs_from_the_saved_one_is_reported(tmp_path, caplog):
    train(tmp_path, stop=4)
    sampling = RepeatFactorSampling(0.5, seed=7)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, resume=True, steps=4, sampling=sampling, seed=8)
    assert [r.getMessage().split(": ")[0] for r in caplog.records] == [
        "dataloader.train.seed=8 has no effect",
        "dataloader.train.sampling.seed=7 has no effect",
    ]


def test_a_checkpoint_of_an_earlier_version_is_reported_in_one_line(tmp_path, caplog):
    train(tmp_path, stop=4)
    path = tmp_path / "model_0000002.pth"
    checkpoint = torch.load(path)
    for new in ("resume", "scalars"):
        del checkpoint["trainer"][new]
    torch.save(checkpoint, path)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, resume=True, steps=4)
    (warning,) = caplog.records
    assert "has no position in the data" in warning.getMessage()


@pytest.mark.parametrize("interrupted", [2, 4])
def test_evaluations_are_neither_lost_nor_repeated(straight, interrupted, tmp_path):
    """Interrupt the evaluation after step 6, or the last one."""
    steps = []

    def evaluate(model):
        steps.append(1)
        if len(steps) == interrupted:
            raise Stopped
        return score(model)

    first = train(tmp_path, evaluate=evaluate)
    run = train(tmp_path, resume=True, evaluate=evaluate)
    assert len(steps) == 5
    run.model.batches = first.model.batches + run.model.batches
    assert differences(run, straight) == set()
    train(tmp_path, resume=True, evaluate=evaluate)  # nothing is left
    assert len(steps) == 5
    assert metrics(tmp_path) == metrics(straight.folder)


def test_the_record_of_another_test_set_is_not_used(tmp_path):
    scores = []

    def evaluate(_):
        scores.append(len(scores))
        return {"a": {"b": scores[-1]}}

    for test in ("val", "val", "minival"):
        train(tmp_path, resume=bool(scores), steps=2, evaluate=evaluate, test=test)
    assert len(scores) == 2
    assert [line["test"] for line in evaluations(tmp_path)] == ["val", "minival"]
    assert metrics(tmp_path)[-1]["a/b"] == 1


def test_the_last_metrics_of_a_training_that_is_extended_stay(tmp_path):
    train(tmp_path, steps=4)
    train(tmp_path, resume=True, steps=6)
    assert [line["iteration"] for line in metrics(tmp_path) if "a/b" in line] == [2, 4, 6]


def test_metrics_after_the_checkpoint_and_lines_that_are_cut_off_are_removed(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [{"a": 1.5, "iteration": 3}, {"a": 2.5, "iteration": 4}, {"b": 1, "iteration": 2}]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"a": 3.')
    writer = ResumedMetricsFile(path, 4)
    writer.close()
    assert writer.last_written == 3
    assert [json.loads(line) for line in path.open()] == [lines[0], lines[2]]


def _buffers_of_ranks():
    rank = comm.get_rank()
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank)
    state = RankState(model=norm)
    state.gather()
    saved = state.state_dict()
    if rank == 0:
        assert [sorted(buffers) for buffers in saved["ranks"]] == [["model.running_mean"]]
    shared = comm.all_gather(saved)[0]
    again = nn.BatchNorm1d(2)
    RankState(model=again).load_state_dict(shared)
    return again.running_mean.tolist()


@pytest.mark.dist
def test_buffers_that_differ_between_ranks_are_restored_on_their_rank():
    assert run_on_ranks(_buffers_of_ranks, world_size=2) == [[0, 0], [1, 1]]
