"""What train_net.py needs and Detectron2 does not give: strict configs, the trainer, schedules."""

from d2_seesaw.engine.compilation import compile_parts
from d2_seesaw.engine.config import ConfigError, apply_overrides, check_config, load_config
from d2_seesaw.engine.ema import EMAHook
from d2_seesaw.engine.options import train_options
from d2_seesaw.engine.schedule import (
    cosine_with_warmup,
    multi_step_with_warmup,
    polynomial_with_warmup,
)
from d2_seesaw.engine.trainer import Trainer

__all__ = [
    "ConfigError",
    "EMAHook",
    "Trainer",
    "apply_overrides",
    "check_config",
    "compile_parts",
    "cosine_with_warmup",
    "load_config",
    "multi_step_with_warmup",
    "polynomial_with_warmup",
    "train_options",
]
