"""Export trained weights for sharing: model.safetensors, config.yaml and a model card.

The output folder receives the weights of CHECKPOINT bit by bit, with the names and ids of its
classes in their header; the config that training saved; and README.md, a model card with the front
matter of the Hugging Face Hub. The optimizer is left out. The card asks for a license: choose one.
For the averaged weights, give model_final_ema.pth.

config.yaml is written without train.output_dir, train.init_checkpoint (public names such as
detectron2://... stay) and the settings of trackers. Of every absolute path, every URL, and values
such as json_file or image_root, the last part stays. The command lists the keys. The names of the
datasets stay: read the files before you share them.

Examples:
  d2-seesaw export-weights output/quickstart/seesaw/model_final.pth --output shared
  d2-seesaw export-weights output/quickstart/seesaw/model_final_ema.pth --output shared --overwrite
  d2-seesaw export-weights model_0004999.pth --config-file my_config.py --output shared
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from d2_seesaw.checkpoint import (
    CALIBRATION,
    StrictCheckpointer,
    check_class_names,
    is_classifier,
    is_semantic,
    save_weights,
)
from d2_seesaw.cli import add_trust, command_parser, errors_in_one_line, say
from d2_seesaw.cli.export_weights.model_card import CardFacts, model_card, read_metrics
from d2_seesaw.cli.export_weights.shared_config import config_text, without_private_values
from d2_seesaw.engine import load_config
from d2_seesaw.engine.config_files import find_config
from d2_seesaw.inference.class_names import trained_classes
from d2_seesaw.layers import Calibration
from d2_seesaw.utils.files import write_text

FILES = ("config.yaml", "README.md", "model.safetensors")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = command_parser("export-weights", __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint of `d2-seesaw train`")
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--config-file", metavar="FILE", help="default: config.yaml beside the checkpoint")
    add("--title", metavar="TEXT", help="heading of the model card; default: name of the folder")
    add_trust(parser)
    add("--overwrite", action="store_true", help="replace the three files in an existing folder")
    return parser


class _Reader(StrictCheckpointer):
    """Checkpointer that checks the weights of a file against a model and keeps them as they are."""

    weights: dict[str, Tensor]

    def _load_model(self, checkpoint: Any) -> Any:
        self.weights = dict(checkpoint["model"])
        with warnings.catch_warnings():  # the model has no values
            warnings.filterwarnings("ignore", ".*no-op.*")
            return super()._load_model(checkpoint)


def read_checkpoint(
    path: Path, cfg: DictConfig
) -> tuple[dict[str, Tensor], dict[str, Any], nn.Module]:
    """Read the weights of a checkpoint, its other entries, and build its model without values.

    Raises:
        ValueError: the file cannot be read, or the weights do not fit the model of the config.
    """
    with torch.device("meta"):
        model: Any = instantiate(cfg.model)
    reader = _Reader(model, require_all=True)
    extras = reader.load(str(path), checkpointables=[])
    return reader.weights, extras, model


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder whose files the export would replace or be mixed with.

    Raises:
        FileExistsError: a file, or a folder that is not empty, without ``overwrite``.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is not a folder: choose another --output")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{folder} is not empty: choose another --output, or --overwrite replaces "
            f"{', '.join(FILES)} in it"
        )


def export(args: argparse.Namespace) -> str:
    """Write the three files; return the text to print.

    Raises:
        ValueError: the checkpoint cannot be read, does not fit the config, has values that the
            format cannot hold, or its class names are unknown.
        OSError: a file does not exist, or cannot be written.
    """
    checkpoint, folder = args.checkpoint, args.output
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint {str(checkpoint)!r} does not exist")
    check_output(folder, overwrite=args.overwrite)
    beside = checkpoint.with_name("config.yaml")
    if not args.config_file and not beside.is_file():
        raise FileNotFoundError(
            f"config {str(beside)!r} does not exist; give the config of the training: "
            "--config-file FILE"
        )
    config_file = find_config(args.config_file) if args.config_file else beside
    cfg = load_config(str(config_file), trust=args.trust, parts=("model",))
    if "model" not in cfg:
        raise ValueError(f"config {config_file} has no `model`")
    weights, extras, model = read_checkpoint(checkpoint, cfg)
    has_calibration = CALIBRATION in extras
    calibration = Calibration.from_entry(extras[CALIBRATION]) if has_calibration else None
    metadata = _class_names(extras, cfg, model, checkpoint)
    shared, changed = without_private_values(cfg)
    averaged = checkpoint.stem.endswith("_ema")
    steps = _steps(extras, cfg)
    card = model_card(
        CardFacts(
            title=args.title or folder.resolve().name,
            cfg=cfg,
            metadata=metadata,
            weights=weights,
            is_semantic=is_semantic(model),
            is_classifier=is_classifier(model),
            has_masks=getattr(getattr(model, "roi_heads", None), "mask_on", False),
            steps=steps,
            calibration="" if calibration is None else str(calibration),
            metrics=read_metrics(
                checkpoint.with_name("evaluations.jsonl"), steps, averaged=averaged
            )
            if steps is not None and calibration is None  # the run evaluated without it
            else {},
        )
    )
    contents = config_text(shared), card
    for name, text in zip(FILES, contents, strict=False):
        write_text(folder / name, text)
    # The weights come last: where they are, the export is complete.
    save_weights(folder / FILES[-1], weights, metadata, calibration=calibration)
    summary = _summary(folder, weights, metadata, changed)
    return summary if calibration is None else f"{summary}\ncalibration, exported: {calibration}"


def _class_names(
    extras: dict[str, Any], cfg: DictConfig, model: nn.Module, checkpoint: Path
) -> dict[str, Any]:
    saved = extras.get("metadata") or {}
    if "class_names" not in saved:
        saved = trained_classes(cfg, model, extras)
        saved["dataset"] = OmegaConf.select(cfg, "dataloader.train.dataset.names")
    check_class_names(saved, model, f"checkpoint {checkpoint}")
    return {key: value for key, value in saved.items() if value is not None}


def _steps(extras: dict[str, Any], cfg: DictConfig) -> int | None:
    if type(last := extras.get("iteration")) is int:
        return last + 1
    # The averaged weights are written once, after the last step.
    return OmegaConf.select(cfg, "train.max_iter")


def _summary(
    folder: Path, weights: dict[str, Tensor], metadata: dict[str, Any], changed: list[str]
) -> str:
    size = os.path.getsize(folder / FILES[-1]) / 1e6
    lines = [
        f"{folder}/model.safetensors: {len(weights)} tensors, {len(metadata['class_names'])} "
        f"classes, {size:.1f} MB",
        f"{folder}/config.yaml: {'left out or shortened: ' if changed else 'unchanged'}"
        f"{', '.join(changed)}",
        f"{folder}/README.md: choose a license in it, and complete its limits",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Export the weights and print what was written."""
    args = argument_parser().parse_args(arguments)
    with errors_in_one_line("export-weights"):
        say(export(args))
