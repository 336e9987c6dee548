"""Model card: the README.md of shared weights, with the front matter of the Hugging Face Hub."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from d2_seesaw import __version__
from d2_seesaw.engine.config_files import config_folder

_TASKS = {"bbox": "boxes", "segm": "masks", "sem_seg": "pixels", "classification": "images"}
_PARTS = {
    "architecture": "model",
    "backbone": "model.backbone.bottom_up",
    "heads": "model.roi_heads",
    "semantic head": "model.sem_seg_head",
    "classification loss": "model.roi_heads.box_predictor.cls_loss",
    "loss": "model.loss",
    "pixel loss": "model.sem_seg_head.loss",
}

_CARD = """
# {title}

{kind} with {classes:,} classes, for
[Detectron2](https://github.com/facebookresearch/detectron2) with d2_seesaw.

> License: **choose a license** before you share this model. Write it into the first lines of this
> file (`license`) and here. It must agree with the licenses of the training data and of the initial
> weights.

## Model

{facts}

## Use

`config.yaml` describes the model and must stay beside `model.safetensors`, which also holds the
names of the classes. The weights contain no code; the config names the code that builds the model.
In this folder:

{use}

To train further from these weights, set `train.init_checkpoint=model.safetensors`.

## Metrics

{metrics}

## Limits

- The model knows only the classes below. It labels other objects as one of them, or not at all.
- Metrics hold for the data named with them. Other data have not been tested.
- Classes with few training images are found less often. The metrics of the frequency groups, rare
  (r), common (c) and frequent (f), show by how much.
- Add what you know: where the data come from, whom they show, and uses that you advise against.

## Classes

{names}
"""


_USE = """```bash
d2-seesaw predict --checkpoint model.safetensors image.jpg --output predictions
```

```python
from d2_seesaw.inference import load_predictor

predictor = load_predictor("model.safetensors")
output = predictor("image.jpg")["{output}"]
```"""

_USE_OF_CLASSIFIER = """```bash
d2-seesaw train --eval-only --config-file config.yaml train.init_checkpoint=model.safetensors
```"""


@dataclass(frozen=True)
class CardFacts:
    """What a model card says.

    Attributes:
        title: heading.
        cfg: config of the training, with its ``train.output_dir``.
        metadata: class metadata, with ``class_names``.
        weights: the weights.
        is_semantic: whether the model predicts label maps.
        is_classifier: whether the model classifies whole images.
        has_masks: whether the model predicts masks.
        steps: training steps, None if unknown.
        calibration: the calibration of the scores, empty without one.
        metrics: values by task and metric.
    """

    title: str
    cfg: DictConfig
    metadata: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    is_semantic: bool = False
    is_classifier: bool = False
    has_masks: bool = False
    steps: int | None = None
    calibration: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """Return a model card as Markdown with YAML front matter."""
    kind = "Semantic segmentation" if facts.is_semantic else "Object detection"
    kind = "Instance segmentation" if facts.has_masks else kind
    kind = "Image classification" if facts.is_classifier else kind
    tags = {"Object detection": "object-detection", "Image classification": "image-classification"}
    use = _USE.format(output="sem_seg" if facts.is_semantic else "instances")
    front = {
        "library_name": "detectron2",
        "pipeline_tag": tags.get(kind, "image-segmentation"),
        "license": "other",
        "license_name": "choose-a-license",
        "tags": ["detectron2", "d2_seesaw", "long-tail", kind.lower().replace(" ", "-")],
    }
    names = facts.metadata["class_names"]
    body = _CARD.format(
        title=markdown_text(facts.title),
        kind=kind,
        classes=len(names),
        facts=_table(("", ""), _facts(facts)),
        metrics=_metrics(facts),
        names=", ".join(markdown_text(name) for name in names),
        use=_USE_OF_CLASSIFIER if facts.is_classifier else use,
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{body}"


def markdown_text(text: Any) -> str:
    """Return text on one line in which Markdown and HTML have no effect."""
    line = " ".join(str(text).split())
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|~$:-])", r"\\\1", printable)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _facts(facts: CardFacts) -> Iterable[tuple[str, str]]:
    for label, key in _PARTS.items():
        node = OmegaConf.select(facts.cfg, key, throw_on_resolution_failure=False)
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        if target is not None:
            name = target if isinstance(target, str) else target.__qualname__
            yield label, markdown_text(name.rpartition(".")[2])
    numbers = [w.numel() for w in facts.weights.values() if w.is_floating_point()]
    dtypes = sorted({str(w.dtype)[6:] for w in facts.weights.values() if w.is_floating_point()})
    yield "weights", f"{sum(numbers):,} numbers in {' and '.join(dtypes)}"
    config = "`config.yaml`"
    if name := _shipped_config(facts.cfg):
        config += f", from `{name}` of d2_seesaw with the changes in it"
    yield "config", config
    yield "d2_seesaw", f"{__version__}, the version that wrote these files"
    trained = facts.metadata.get("dataset") or OmegaConf.select(
        facts.cfg, "dataloader.train.dataset.names", throw_on_resolution_failure=False
    )
    yield "training data", _list_text(trained) or "not recorded"
    yield "training steps", "not recorded" if facts.steps is None else f"{facts.steps:,}"
    if facts.calibration:
        yield "calibration", markdown_text(facts.calibration)


def _shipped_config(cfg: DictConfig) -> str:
    """Return the name of the shipped config from which ``train.output_dir`` follows, or ``""``."""
    folder = str(OmegaConf.select(cfg, "train.output_dir") or "")
    name = folder.removeprefix("output/")
    shipped = config_folder() / f"{name}.py"
    return name if name != folder and ".." not in name and shipped.is_file() else ""


def _list_text(value: Any) -> str:
    names = [value] if isinstance(value, str) else list(value or ())
    return ", ".join(markdown_text(name) for name in names)


def _metrics(facts: CardFacts) -> str:
    if not facts.metrics:
        return "The run recorded no metrics of these weights."
    columns = list(dict.fromkeys(name for found in facts.metrics.values() for name in found))
    rows = [
        (_TASKS[task], *(_score(found.get(name)) for name in columns))
        for task, found in facts.metrics.items()
    ]
    data = OmegaConf.select(
        facts.cfg, "dataloader.test.dataset.names", throw_on_resolution_failure=False
    )
    return f"In percent, on {_list_text(data) or 'its test data'}.\n\n" + _table(
        ("", *map(markdown_text, columns)), rows
    )


def _score(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.2f}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_metrics(
    path: str | Path, steps: int, *, averaged: bool = False
) -> dict[str, dict[str, float]]:
    """Read the metrics of the weights after ``steps`` from ``evaluations.jsonl`` of a run.

    Args:
        path: The file, one JSON object a line. Without it, there are no metrics.
        steps: Number of training steps.
        averaged: Whether the weights are the average (EMA).

    Returns:
        Values by task and metric, without those of single classes; the last ones recorded.
    """
    found: dict[str, dict[str, float]] = {}
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a killed run may be cut
            continue
        results = record.get("results") if isinstance(record, dict) else None
        if not isinstance(results, dict) or record.get("steps") != steps:
            continue
        for key, value in results.items():
            task, _, name = key.removeprefix("ema/").partition("/")
            fits = key.startswith("ema/") == averaged and task in _TASKS and "-" not in name
            if fits and type(value) in (int, float):
                found.setdefault(task, {})[name] = float(value)
    return {task: found[task] for task in _TASKS if task in found}
