"""Parts of training that Detectron2 lacks: strict configs, trainer, schedules, trackers."""

import d2_seesaw._requires_detectron2  # noqa: F401  (an error in one line)
from d2_seesaw.engine.checkpointing import CheckpointHook
from d2_seesaw.engine.config import (
    ConfigError,
    apply_overrides,
    check_config,
    load_config,
    load_part,
)
from d2_seesaw.engine.ema import EMAHook
from d2_seesaw.engine.monitoring.best_checkpoint import BestCheckpoint
from d2_seesaw.engine.monitoring.early_stopping import EarlyStopping
from d2_seesaw.engine.schedule import (
    cosine_with_warmup,
    multi_step_with_warmup,
    polynomial_with_warmup,
)
from d2_seesaw.engine.stop import StopHook, Stopped, StopSignals, signals_waiting
from d2_seesaw.engine.trackers import (
    MLflowWriter,
    TrackingWriter,
    WandbWriter,
    check_trackers,
    tracking_writers,
)
from d2_seesaw.engine.train_options import train_options
from d2_seesaw.engine.trainer import Trainer, compile_parts

__all__ = [
    "BestCheckpoint",
    "CheckpointHook",
    "ConfigError",
    "EMAHook",
    "EarlyStopping",
    "MLflowWriter",
    "StopHook",
    "StopSignals",
    "Stopped",
    "TrackingWriter",
    "Trainer",
    "WandbWriter",
    "apply_overrides",
    "check_config",
    "check_trackers",
    "compile_parts",
    "cosine_with_warmup",
    "load_config",
    "load_part",
    "multi_step_with_warmup",
    "polynomial_with_warmup",
    "signals_waiting",
    "tracking_writers",
    "train_options",
]
