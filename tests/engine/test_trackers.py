import json
import sys
from types import SimpleNamespace

import pytest
from detectron2.config import LazyConfig
from detectron2.utils.events import EventStorage, JSONWriter

from d2_seesaw.engine import ConfigError, check_trackers, load_config, tracking_writers
from d2_seesaw.engine.trackers import MLflowWriter, flat_config


class Recorder:
    """Mock that records every call of every attribute, for wandb's run and mlflow."""

    def __init__(self, **attributes):
        self.calls = []
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))

        return call

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


@pytest.fixture
def wandb(monkeypatch):
    module = SimpleNamespace(runs=[], inits=[])

    def init(**options):
        module.inits.append(options)
        module.runs.append(Recorder(id=options["id"] or f"run{len(module.runs)}"))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch):
    module = Recorder()

    def start_run(**options):
        module.calls.append(("start_run", (), options))
        return SimpleNamespace(info=SimpleNamespace(run_id=options.get("run_id", "abc")))

    module.start_run = start_run
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def config(folder, *overrides):
    cfg = load_config("configs/quickstart/seesaw.py", [f"train.output_dir={folder}", *overrides])
    LazyConfig.save(cfg, f"{folder}/config.yaml")
    return cfg


def train(writers, iterations, period=2):
    """Write as Detectron2's hooks do: scalars each step, metrics periodically and at the end."""
    with EventStorage(iterations.start) as storage:
        for i in iterations:
            storage.put_scalar("total_loss", float(i))
            if (i + 1) % period == 0:
                storage.put_scalar("bbox/APr", 10.0 * i, smoothing_hint=False)
                for writer in writers:
                    writer.write()
            storage.step()
        storage.put_scalar("bbox/APr", 99.0, smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()


def test_tracking_is_off_by_default(tmp_path):
    assert tracking_writers(config(tmp_path), resume=False) == []


def test_wandb_gets_the_scalars_of_detectron2s_metrics_json(tmp_path, wandb):
    writers = tracking_writers(config(tmp_path, "train.wandb.enabled=True"), resume=False)
    train([*writers, JSONWriter(str(tmp_path / "metrics.json"))], range(7))
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    (run,) = wandb.runs
    assert [scalars for (scalars,), _ in run.of("log")] == lines
    assert lines[-1] == {"iteration": 7, "bbox/APr": 99.0}
    assert run.of("define_metric")[-1] == (("*",), {"step_metric": "iteration"})
    assert run.of("finish") == [((), {"exit_code": 0})]


def test_wandb_gets_the_options_and_the_whole_config(tmp_path, wandb):
    options = ["enabled=True", "project=p", "name=n", "tags=[a,b]", "mode=offline"]
    tracking_writers(config(tmp_path, *(f"train.wandb.{o}" for o in options)), resume=False)
    (given,) = wandb.inits
    assert (given["project"], given["name"], given["mode"]) == ("p", "n", "offline")
    assert (given["tags"], given["dir"], given["resume"]) == (["a", "b"], str(tmp_path), None)
    assert given["config"]["model"]["roi_heads"]["num_classes"] == 20
    # Interpolations are resolved and classes given by name, so the config is plain JSON.
    assert given["config"]["lr_multiplier"]["max_iter"] == 600
    assert json.loads(json.dumps(given["config"])) == given["config"]


def test_a_run_is_named_after_its_folder(tmp_path, wandb):
    tracking_writers(config(tmp_path, "train.wandb.enabled=True"), resume=False)
    assert wandb.inits[0]["name"] == tmp_path.name


def test_a_resumed_training_continues_the_same_wandb_run(tmp_path, wandb):
    cfg = config(tmp_path, "train.wandb.enabled=True")
    for resume in (True, True, False):  # nothing to resume, resumed, restarted
        tracking_writers(cfg, resume=resume)
    assert [(i["id"], i["resume"]) for i in wandb.inits] == [
        (None, None),
        ("run0", "allow"),
        (None, None),
    ]
    assert (tmp_path / "wandb_run.txt").read_text().splitlines()[0] == "run2"
    assert all(i["allow_val_change"] for i in wandb.inits)  # a longer training changes the config


def sent(run):
    """Return names and iterations of all scalars that a wandb run got, in order."""
    given = [dict(scalars) for (scalars,), _ in run.of("log")]
    return [(name, g["iteration"]) for g in given for name in g if name != "iteration"]


@pytest.mark.parametrize("start", [3, 6], ids=["after an interruption", "after its end"])
def test_a_resumed_training_sends_no_scalar_twice(tmp_path, wandb, start):
    cfg = config(tmp_path, "train.wandb.enabled=True")
    train(tracking_writers(cfg, resume=False), range(6), period=1)
    train(tracking_writers(cfg, resume=True), range(start, 9), period=1)
    first, second = map(sent, wandb.runs)
    each_step = [(n, i) for i in range(6) for n in ("total_loss", "bbox/APr")]
    assert first == [*each_step, ("bbox/APr", 6)]
    # The first training ended with an evaluation at iteration 6, so only the loss is new there.
    assert second == [
        ("total_loss", 6),
        *((n, i) for i in (7, 8) for n in ("total_loss", "bbox/APr")),
        ("bbox/APr", 9),
    ]
    values = {g["iteration"]: g for (g,), _ in wandb.runs[1].of("log")}
    assert values[9]["bbox/APr"] == 99.0


def test_mlflow_gets_scalars_parameters_and_the_config_file(tmp_path, mlflow):
    options = ["enabled=True", "tracking_uri=sqlite:///x.db", "experiment=e", "name=n"]
    cfg = config(tmp_path, *(f"train.mlflow.{o}" for o in options))
    writers = tracking_writers(cfg, resume=False)
    train(writers, range(3))
    assert mlflow.of("set_tracking_uri") == [(("sqlite:///x.db",), {})]
    assert mlflow.of("set_experiment") == [(("e",), {})]
    assert mlflow.of("start_run") == [((), {"run_name": "n"})]
    params = [param for (params,), _ in mlflow.of("log_params") for param in params.items()]
    assert len(params) == len(dict(params)) > 150
    assert all(len(params) <= 100 for (params,), _ in mlflow.of("log_params"))
    assert dict(params)["optimizer.lr"] == "0.001"
    assert mlflow.of("log_artifact") == [((str(tmp_path / "config.yaml"),), {})]
    assert mlflow.of("log_metrics") == [
        (({"total_loss": 0.5, "bbox/APr": 10.0},), {"step": 1}),
        (({"total_loss": 1.0},), {"step": 2}),
        (({"bbox/APr": 99.0},), {"step": 3}),
    ]
    assert mlflow.of("end_run") == [(("FINISHED",), {})]


def test_values_too_long_for_mlflow_are_truncated(tmp_path, mlflow):
    MLflowWriter(str(tmp_path), {"a": "x" * 700, "b": "y" * 500}, resume=False)
    assert mlflow.of("log_params") == [(({"a": "x" * 500, "b": "y" * 500},), {})]


def test_scalars_are_sent_in_the_order_of_the_iterations(tmp_path, wandb):
    (writer,) = tracking_writers(config(tmp_path, "train.wandb.enabled=True"), resume=False)
    with EventStorage(0) as storage:
        storage.put_scalar("total_loss", 1.0)
        storage.put_scalar("bbox/APr", 2.0)
        storage.step()
        storage.put_scalar("total_loss", 3.0)
        writer.write()
    assert sent(wandb.runs[0]) == [("bbox/APr", 0), ("total_loss", 1)]


def test_names_that_mlflow_rejects_are_replaced(tmp_path, mlflow):
    (writer,) = tracking_writers(config(tmp_path, "train.mlflow.enabled=True"), resume=False)
    writer.log({"IoU-it's (x), é": 1.0, "bbox/AP-a b": 2.0}, 3)
    assert mlflow.of("log_metrics")[0][0] == ({"IoU-it_s _x__ é": 1.0, "bbox/AP-a b": 2.0},)


def test_a_resumed_training_continues_the_same_mlflow_run(tmp_path, mlflow):
    cfg = config(tmp_path, "train.mlflow.enabled=True")
    tracking_writers(cfg, resume=False)
    logged = len(mlflow.of("log_params"))
    tracking_writers(cfg, resume=True)
    assert mlflow.of("start_run")[-1] == ((), {"run_id": "abc"})
    assert len(mlflow.of("log_params")) == logged  # mlflow rejects changed parameters


def fail_and_close(writers):
    """Raise an error in Detectron2's training loop, which then closes the writers."""
    try:
        raise FloatingPointError
    finally:
        for writer in writers:
            writer.close()


def test_a_training_that_fails_is_a_failed_run(tmp_path, wandb, mlflow):
    cfg = config(tmp_path, "train.wandb.enabled=True", "train.mlflow.enabled=True")
    writers = tracking_writers(cfg, resume=False)
    with pytest.raises(FloatingPointError):
        fail_and_close(writers)
    assert wandb.runs[0].of("finish") == [((), {"exit_code": 1})]
    assert mlflow.of("end_run") == [(("FAILED",), {})]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_reported_with_its_install_command(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        tracking_writers(config(tmp_path, f"train.{name}.enabled=True"), resume=False)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_check_reports_a_missing_package_without_starting_a_run(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    check_trackers(config(tmp_path))
    with pytest.raises(ConfigError, match=rf"train\.{name}\.enabled=True .*pip install {name}$"):
        check_trackers(config(tmp_path, f"train.{name}.enabled=True"))


def test_the_check_of_installed_packages_starts_no_run(tmp_path, wandb, mlflow):
    check_trackers(config(tmp_path, "train.wandb.enabled=True", "train.mlflow.enabled=True"))
    assert wandb.inits == mlflow.calls == []


def test_misspelled_options_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean 'train.wandb.project'"):
        config(tmp_path, "train.wandb.projct=x")


def test_nested_options_are_flattened_to_dotted_keys():
    nested = {"a": {"b": [1, 2], "c": [{"d": None}, {"d": {}}]}, "e": "x"}
    assert dict(flat_config(nested)) == {"a.b": [1, 2], "a.c.0.d": None, "a.c.1.d": {}, "e": "x"}
