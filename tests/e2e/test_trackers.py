"""Metrics that a real training sends to TensorBoard, Weights & Biases and MLflow.

Two fake modules stand in for the latter and write each call as a line of JSON.
"""

import json
import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RECORDER = """
import json, os
from types import SimpleNamespace

def note(*call):
    with open(os.environ["RECORD"] + "/" + __name__ + ".jsonl", "a") as file:
        file.write(json.dumps(call) + "\\n")
"""
WANDB = """
def init(**options):
    note("run", options["id"], options["resume"])
    return SimpleNamespace(
        id=options["id"] or "of-wandb",
        define_metric=lambda *args, **options: None,
        log=lambda scalars: note("log", scalars.pop("iteration"), scalars),
        finish=lambda exit_code: note("end", exit_code),
    )
"""
MLFLOW = """
def start_run(run_id=None, run_name=None):
    note("run", run_id, run_name)
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "of-mlflow"))

def log_metrics(scalars, step):
    note("log", step, scalars)

def end_run(status):
    note("end", status)

set_experiment = log_params = log_artifact = lambda *args: None
"""
TRACKERS = ["train.wandb.enabled=True", "train.mlflow.enabled=True"]
GROUPS = {f"{task}/AP{group}" for task in ("bbox", "segm") for group in "rcf"}
# The small dataset has no frequent categories of its own.
COUNTS = ",".join(f"{i}:{(5, 50, 500)[i % 3]}" for i in range(1, 21))
OF_THREE_GROUPS = f"dataloader.evaluator.train_image_counts={{{COUNTS}}}"
LENGTHS = ["lr_multiplier.max_iter=100", "dataloader.train.total_batch_size=2"]


def import_from(folder, patch):
    """Import ``wandb`` and ``mlflow`` from ``folder`` until the patch ends."""
    for name in ("wandb", "mlflow"):
        patch.delitem(sys.modules, name, raising=False)
        patch.setitem(sys.modules, name, None)  # so that the patch removes it at the end
        del sys.modules[name]
    patch.syspath_prepend(folder)


@pytest.fixture(scope="module")
def trackers(tmp_path_factory):
    """Write the two fake modules; return their folder, in which they record their calls."""
    folder = tmp_path_factory.mktemp("trackers")
    (folder / "wandb.py").write_text(RECORDER + WANDB)
    (folder / "mlflow.py").write_text(RECORDER + MLFLOW)
    return folder


@pytest.fixture(scope="module")
def runs(train_net, trackers, tmp_path_factory):
    """Train three steps, then resume as if interrupted after the checkpoint of the first step."""
    output = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        import_from(trackers, patch)
        patch.setenv("RECORD", str(trackers))
        arguments = [*TRACKERS, *LENGTHS, OF_THREE_GROUPS]
        arguments += ["train.checkpointer.period=1", "train.eval_period=2"]
        train_net(output, *arguments, "train.max_iter=3")
        (output / "last_checkpoint").write_text("model_0000000.pth")
        last = train_net(output, "--resume", *arguments, "train.max_iter=4")
    calls = {
        name: [json.loads(line) for line in (trackers / f"{name}.jsonl").open()]
        for name in ("wandb", "mlflow")
    }
    return SimpleNamespace(output=output, calls=calls, text=last.text, metrics=last.metrics)


def read_tensorboard(folder):
    """Return the scalars that TensorBoard shows, by name and iteration."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    shown = [(n, e.step, e.value) for n in events.Tags()["scalars"] for e in events.Scalars(n)]
    found = {(name, step): value for name, step, value in shown}
    assert len(found) == len(shown), "a scalar is there twice"
    return found


def read_tracker(calls):
    """Return the scalars that a tracker recorded, by name and iteration."""
    logged = [(step, scalars) for kind, step, *rest in calls if kind == "log" for scalars in rest]
    sent = [(name, step, v) for step, scalars in logged for name, v in scalars.items()]
    found = {(name, step): value for name, step, value in sent}
    assert len(found) == len(sent), "a scalar was sent twice"
    return found


@pytest.fixture(params=["tensorboard", "wandb", "mlflow"])
def scalars(request, runs):
    if request.param == "tensorboard":
        return read_tensorboard(runs.output)
    return read_tracker(runs.calls[request.param])


@pytest.mark.slow
def test_losses_are_recorded_once_for_each_step(scalars):
    for name in ("total_loss", "loss_cls_classes", "loss_mask", "lr"):
        assert sorted(step for n, step in scalars if n == name) == [0, 1, 2, 3]


def test_metrics_of_the_groups_are_recorded_at_the_steps_of_the_evaluations(scalars, runs):
    steps = {step for name, step in scalars if name == "bbox/APr"}
    # Evaluations follow steps two and four. The one after step three was lost by the interruption,
    # but trackers that delete nothing still have it.
    assert steps - {3} == {1, 4}
    for name in GROUPS:
        assert {step for n, step in scalars if n == name} == steps
        assert scalars[name, 4] == pytest.approx(runs.metrics[-1][name], rel=1e-6)


def test_absent_metrics_are_never_recorded_as_numbers(scalars, runs):
    final = runs.text[runs.text.rindex("Long-tail results:") :]
    assert "n/a" in final, "the case must have a metric without ground truth"
    assert not {f"{task}/APl" for task in ("bbox", "segm")} & {name for name, _ in scalars}
    measured = [v for (name, _), v in scalars.items() if name.startswith(("bbox/", "segm/"))]
    assert measured
    assert all(v >= 0 for v in measured)  # neither nan nor -100


def test_a_resumed_training_continues_the_same_run(runs):
    of = {n: [c for c in calls if c[0] != "log"] for n, calls in runs.calls.items()}
    assert of["wandb"] == [
        *(["run", None, None], ["end", 0]),
        *(["run", "of-wandb", "allow"], ["end", 0]),
    ]
    assert of["mlflow"] == [
        *(["run", None, runs.output.name], ["end", "FINISHED"]),
        *(["run", "of-mlflow", None], ["end", "FINISHED"]),
    ]


@pytest.mark.slow
def test_extending_a_finished_training_keeps_its_metrics(train_net, tmp_path):
    train_net(tmp_path, *LENGTHS, "train.max_iter=1")
    train_net(tmp_path, "--resume", *LENGTHS, "train.max_iter=2")
    scalars = read_tensorboard(tmp_path)
    assert [step for name, step in scalars if name == "segm/APr"] == [1, 2]
    assert [step for name, step in scalars if name == "total_loss"] == [0, 1]


def test_a_missing_tracker_is_a_one_line_error_before_anything_is_built(
    train_net, tmp_path, monkeypatch
):
    (tmp_path / "mlflow.py").write_text("raise ImportError('not here')")
    import_from(tmp_path, monkeypatch)
    run = train_net(tmp_path / "run", "train.mlflow.enabled=True", "train.max_iter=1", fails=True)
    assert run.text.strip().splitlines()[-1] == (
        "d2-seesaw train: train.mlflow.enabled=True needs a package that is not installed "
        "(not here): pip install mlflow"
    )
    assert "Traceback" not in run.text
    assert not (tmp_path / "run").exists()
