"""Experiment trackers: Weights & Biases and MLflow get what Detectron2 writes for TensorBoard.

Both are optional packages, imported where a config switches them on.
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

from detectron2.config import LazyConfig
from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from d2_seesaw.engine.config import ConfigError

# MLflow's limits on one call and on the length of one parameter.
_MLFLOW_PARAMS_PER_CALL = 100
_MLFLOW_PARAM_LENGTH = 500
_NOT_IN_MLFLOW_NAMES = re.compile(r"[^\w./\- ]")


def tracking_writers(cfg: DictConfig, *, resume: bool) -> list[EventWriter]:
    """The trackers that ``cfg.train`` switches on. To be called on the main process alone.

    Args:
        cfg: whose ``train.output_dir`` holds it as ``config.yaml``, which is what they are told.
        resume: go on with the runs that this output folder has started, if it has any.

    Raises:
        ImportError: the package of a tracker is not there, with the line that installs it.
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
    """Refuse trackers whose packages are not there, before anything is built.

    Raises:
        ConfigError: naming the package, with the line that installs it.
    """
    for name, _ in _switched_on(cfg):
        try:
            _import(name)
        except ImportError as error:
            raise ConfigError(str(error)) from error


def _switched_on(cfg: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """The trackers that ``cfg.train`` switches on, by package, with their other options."""
    for name in ("wandb", "mlflow"):
        # A config that was saved before there were trackers has no such key.
        given = cfg.train.get(name)
        options: Any = {} if given is None else OmegaConf.to_container(given)
        if options.pop("enabled", False):
            yield name, options


def plain_config(path: str | Path) -> dict[str, Any]:
    """A saved config as nested dicts, lists and plain values, interpolations filled in."""
    cfg: Any = LazyConfig.load(str(path))
    return _plain(OmegaConf.to_container(cfg, resolve=True))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if callable(value):  # such as the block of a ResNet
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, int | float | str | None) else str(value)


def flat_config(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts and lists with their dotted keys; empty ones are values, too."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flat_config(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, list) and any(isinstance(v, Mapping | list) for v in config):
        for index, value in enumerate(config):
            yield from flat_config(value, f"{path}.{index}")
    else:
        yield path, config


class TrackingWriter(EventWriter):
    """Hands each new scalar to a tracker once, with the iteration that it belongs to.

    Losses are the medians of the last ``window_size`` iterations, as in Detectron2's writers;
    metrics of evaluations, such as ``bbox/APr``, are as they are. Trackers delete nothing, so of
    iterations that were lost with an interruption and trained again, they keep the first values.

    Args:
        output_dir: of the training; remembers in ``run_file`` which run is its own, and up to which
            iteration it has each scalar.
        resume: go on with that run.
        window_size: iterations of the medians.
    """

    run_file: str

    def __init__(self, output_dir: str, *, resume: bool, window_size: int = 20) -> None:
        self._run_file = Path(output_dir) / self.run_file
        self._window_size = window_size
        self._sent: dict[str, int] = {}  # the last iteration of each scalar
        self.known_run: str | None = None
        if resume and self._run_file.is_file():
            self.known_run, *sent = self._run_file.read_text().splitlines()
            self._sent = json.loads(sent[0]) if sent else {}

    def remember(self, run: str) -> None:
        """Write down the identifier of the run, for a resumed training."""
        self.known_run = run
        self._run_file.parent.mkdir(parents=True, exist_ok=True)
        self._run_file.write_text(f"{run}\n{json.dumps(self._sent)}\n")

    @abstractmethod
    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""

    def write(self) -> None:
        """Send what is new since the last call, in the order of the iterations."""
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
    """Writes to Weights & Biases; see :class:`TrackingWriter`.

    A run that is resumed goes on under its id, and ``iteration`` is its horizontal axis.

    Args:
        output_dir: of the training; also gets wandb's own files.
        config: of the training, plain values.
        resume: go on with the run of this folder.
        project: where the run appears.
        name: of the run; by default that of the output folder.
        entity: user or team; by default wandb's.
        tags: of the run.
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
            # A resumed training may differ in its length, say.
            allow_val_change=True,
        )
        self.remember(self._run.id)
        # Steps of wandb only grow: it would drop what comes for a step it has had, such as the
        # losses of the step at which the metrics of a training that was to end there were sent.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""
        self._run.log({**scalars, "iteration": iteration})

    def close(self) -> None:
        """End the run, as failed if an exception is on its way."""
        self._run.finish(exit_code=int(_is_failing()))


class MLflowWriter(TrackingWriter):
    """Writes to MLflow; see :class:`TrackingWriter`.

    The values of the config are the parameters of the run. Resuming leaves them alone, which MLflow
    would not let change, but not the artifact ``config.yaml``.

    Args:
        output_dir: of the training, with its ``config.yaml``.
        config: of the training, plain values.
        resume: go on with the run of this folder.
        tracking_uri: server or store; by default MLflow's, such as ``$MLFLOW_TRACKING_URI``.
        experiment: name of the experiment, created if it is new.
        name: of the run; by default that of the output folder.
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
        """End the run, as failed if an exception is on its way."""
        self._mlflow.end_run("FAILED" if _is_failing() else "FINISHED")


def _mlflow_name(name: str) -> str:
    """``name`` without the characters that MLflow refuses."""
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
