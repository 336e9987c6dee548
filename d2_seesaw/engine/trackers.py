"""Experiment trackers: Weights & Biases and MLflow get the scalars that TensorBoard gets.

Both are optional packages, imported when a config enables them.
"""

import importlib
import json
import re
import sys
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from d2_seesaw.engine.config import ConfigError
from d2_seesaw.engine.untrusted.yaml_files import Unresolved, read_yaml_config
from d2_seesaw.utils.files import write_text

# MLflow's limits on one call and on the length of one parameter.
_MLFLOW_PARAMS_PER_CALL = 100
_MLFLOW_PARAM_LENGTH = 500
_NOT_IN_MLFLOW_NAMES = re.compile(r"[^\w./\- ]")


def tracking_writers(cfg: DictConfig, *, resume: bool) -> list[EventWriter]:
    """Return the trackers that ``cfg.train`` enables. Only the main process may call this.

    Args:
        cfg: a config that is saved as ``config.yaml`` in its ``train.output_dir``; the trackers get
            this file.
        resume: continue the runs of this output folder, if there are any.

    Raises:
        ImportError: the package of a tracker is missing; the message has the command to install it.
    """
    writers: dict[str, Any] = {"wandb": WandbWriter, "mlflow": MLflowWriter}
    output_dir = cfg.train.output_dir
    return [
        writers[name](
            output_dir, plain_config(Path(output_dir) / "config.yaml"), resume=resume, **options
        )
        for name, options in _switched_on(cfg)
    ]


def check_trackers(cfg: DictConfig) -> None:
    """Refuse trackers whose packages are missing, before anything is built.

    Raises:
        ConfigError: a missing package, with the command to install it.
    """
    for name, _ in _switched_on(cfg):
        try:
            _import(name)
        except ImportError as error:
            raise ConfigError(str(error)) from error


def _switched_on(cfg: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield package and other options of each tracker that ``cfg.train`` enables."""
    for name in ("wandb", "mlflow"):
        options: Any = OmegaConf.to_container(cfg.train[name])
        if options.pop("enabled"):
            yield name, options


def plain_config(path: str | Path) -> dict[str, Any]:
    """Return a saved config as nested dicts, lists and plain values, interpolations resolved."""
    cfg = read_yaml_config(path, is_own=True)
    return plain_value(OmegaConf.to_container(cfg, resolve=True))


def plain_value(value: Any) -> Any:
    """Return nested dicts and lists of plain values, with callables as their names."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(child) for child in value]
    if isinstance(value, Unresolved):  # such as a target, or the block of a ResNet
        return value.text
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, int | float | str | None) else str(value)


def flat_config(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each leaf of nested dicts and lists; empty ones are leaves."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flat_config(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, list) and any(isinstance(v, Mapping | list) for v in config):
        for index, value in enumerate(config):
            yield from flat_config(value, f"{path}.{index}")
    else:
        yield path, config


class TrackingWriter(EventWriter):
    """Base class of writers that send each new scalar to a tracker once, with its iteration.

    Losses are medians over the last ``window_size`` iterations, as in Detectron2's writers; metrics
    of evaluations, such as ``bbox/APr``, are not smoothed. Trackers cannot delete values: if
    iterations are lost in an interruption and trained again, the first values are kept.

    Args:
        output_dir: output folder of the training. Its ``run_file`` records the id of the run
            and the last iteration sent of each scalar.
        resume: continue that run.
        window_size: number of iterations of the medians.
    """

    run_file: str

    def __init__(self, output_dir: str, *, resume: bool, window_size: int = 20) -> None:
        self._run_file = Path(output_dir) / self.run_file
        self._window_size = window_size
        self._sent: dict[str, int] = {}  # the last iteration of each scalar
        self.known_run: str | None = None
        if resume and self._run_file.is_file():
            self.known_run, sent = self._run_file.read_text().splitlines()
            self._sent = json.loads(sent)

    def remember(self, run: str) -> None:
        """Record the identifier of the run, so that training can resume it."""
        self.known_run = run
        write_text(self._run_file, f"{run}\n{json.dumps(self._sent)}\n")

    @abstractmethod
    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""

    def write(self) -> None:
        """Send the scalars that are new since the last call, in the order of the iterations."""
        new: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._sent.get(name, -1):
                new[iteration][name] = float(value)
        for iteration in sorted(new):
            self.log(new[iteration], iteration)
            self._sent |= dict.fromkeys(new[iteration], iteration)
        if new and self.known_run is not None:
            self.remember(self.known_run)


class WandbWriter(TrackingWriter):
    """Writer to Weights & Biases; see :class:`TrackingWriter`.

    A resumed run keeps its id. The horizontal axis is ``iteration``.

    Args:
        output_dir: output folder of the training; wandb writes its own files there too.
        config: config of the training, as plain values.
        resume: continue the run of this folder.
        project: project of the run.
        name: name of the run; by default the name of the output folder.
        entity: user or team; by default wandb's.
        tags: tags of the run.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; by default ``$WANDB_MODE``.
        window_size: see :class:`TrackingWriter`.
    """

    run_file = "wandb_run.txt"

    def __init__(
        self,
        output_dir: str,
        config: Mapping[str, Any],
        *,
        resume: bool,
        project: str,
        name: str | None = None,
        entity: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
        window_size: int = 20,
    ) -> None:
        super().__init__(output_dir, resume=resume, window_size=window_size)
        wandb = _import("wandb")
        self._run = wandb.init(
            project=project,
            name=name or Path(output_dir).name,
            entity=entity,
            tags=list(tags),
            mode=mode,
            dir=output_dir,
            config=dict(config),
            id=self.known_run,
            resume="allow" if self.known_run else None,
            allow_val_change=True,  # a resumed training may have another length
        )
        self.remember(self._run.id)
        # wandb drops values of a step that is not later than the last one. That would lose losses
        # of a resumed run at the step where the first one ended with an evaluation.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""
        self._run.log({**scalars, "iteration": iteration})

    def close(self) -> None:
        """End the run, as failed if an exception is being handled."""
        self._run.finish(exit_code=int(_is_failing()))


class MLflowWriter(TrackingWriter):
    """Writer to MLflow; see :class:`TrackingWriter`.

    The values of the config are the parameters of the run. A resumed training does not log them
    again, because MLflow refuses to change them; it does replace the artifact ``config.yaml``.

    Args:
        output_dir: output folder of the training, with its ``config.yaml``.
        config: config of the training, as plain values.
        resume: continue the run of this folder.
        tracking_uri: server or store; by default MLflow's, such as ``$MLFLOW_TRACKING_URI``.
        experiment: name of the experiment, created if it is new.
        name: name of the run; by default the name of the output folder.
        window_size: see :class:`TrackingWriter`.
    """

    run_file = "mlflow_run.txt"

    def __init__(
        self,
        output_dir: str,
        config: Mapping[str, Any],
        *,
        resume: bool,
        tracking_uri: str | None = None,
        experiment: str = "d2_seesaw",
        name: str | None = None,
        window_size: int = 20,
    ) -> None:
        super().__init__(output_dir, resume=resume, window_size=window_size)
        self._mlflow = mlflow = _import("mlflow")
        if tracking_uri:
            mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment(experiment)
        if self.known_run:
            mlflow.start_run(run_id=self.known_run)
        else:
            run = mlflow.start_run(run_name=name or Path(output_dir).name)
            self.remember(run.info.run_id)
            self._log_params(config)
        mlflow.log_artifact(str(Path(output_dir) / "config.yaml"))

    def _log_params(self, config: Mapping[str, Any]) -> None:
        params = [
            (_mlflow_name(key), str(value)[:_MLFLOW_PARAM_LENGTH])
            for key, value in flat_config(config)
        ]
        for start in range(0, len(params), _MLFLOW_PARAMS_PER_CALL):
            self._mlflow.log_params(dict(params[start : start + _MLFLOW_PARAMS_PER_CALL]))

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""
        named = {_mlflow_name(name): value for name, value in scalars.items()}
        self._mlflow.log_metrics(named, step=iteration)

    def close(self) -> None:
        """End the run, as failed if an exception is being handled."""
        self._mlflow.end_run("FAILED" if _is_failing() else "FINISHED")


def _mlflow_name(name: str) -> str:
    """Return ``name`` without the characters that MLflow refuses."""
    return _NOT_IN_MLFLOW_NAMES.sub("_", name)


def _is_failing() -> bool:
    # Detectron2 closes writers in the ``finally`` of the training loop.
    return sys.exc_info()[0] is not None


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"train.{package}.enabled=True needs a package that is not installed ({error}): "
            f"pip install {package}"
        ) from error
