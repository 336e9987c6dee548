"""Types of the evidence: data, recipes and tables."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Data:
    """Generated data.

    Attributes:
        name: Name of their folder.
        command: Arguments of ``d2-seesaw generate`` without ``--root``; ``{cutouts}`` and
            ``{backgrounds}`` are replaced by the folders that the user gives.
        semantic: Whether they are label maps instead of instances.
    """

    name: str
    command: tuple[str, ...]
    semantic: bool = False


@dataclass(frozen=True)
class Recipe:
    """Training and evaluation that is run once per seed.

    Attributes:
        name: Name in files and tables.
        data: What it is trained and evaluated on.
        config: A config in the folder configs, or a shipped one.
        head: Part of ``common/heads/classification.py`` for the box predictor; empty keeps the
            config's.
        overrides: Changed keys of the config.
        starts_from_detector: Whether it starts from a detector without classes that was trained on
            the same training split, as far as the weights fit, instead of ImageNet's weights.
        calibration: Method of ``d2-seesaw calibrate``. The recipe then trains nothing, but
            calibrates the models of the recipe ``of``.
        of: Name of the recipe whose models are used: calibrated, evaluated on another split, or
            else trained further.
        start_of: Data on which the detector was trained, if they are others with the same
            categories and splits.
        split: Split on which the models of ``of`` are evaluated, without training them.
        stages: Number of stages of a cascade, each of which starts from the heads of the detector.
    """

    name: str
    data: Data
    config: str
    head: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    starts_from_detector: bool = False
    calibration: str = ""
    of: str = ""
    start_of: Data | None = None
    split: str = ""
    stages: int = 0

    @property
    def start_data(self) -> Data:
        """Return the data on which the detector that it starts from was trained."""
        return self.start_of or self.data

    def fingerprint(self) -> str:
        """Return a hash of everything that determines the recipe."""
        content = asdict(self)
        for name in ("start_of", "split", "stages"):
            if not content[name]:
                del content[name]  # as in the results from before it existed
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Table:
    """Comparison of recipes with a baseline on the same seeds.

    Attributes:
        name: Name on the command line.
        title: Heading.
        recipes: The baseline, then the recipes that are compared with it, in the order of the runs.
        seeds: Seeds of every recipe.
        metrics: Columns, as ``task/metric``.
        ranked: Whether the recipe with the best first metric comes first, instead of the baseline.
    """

    name: str
    title: str
    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...] = ("segm/AP", "segm/APr", "segm/APc", "segm/APf", "bbox/AP")
    ranked: bool = False

    @property
    def baseline(self) -> Recipe:
        """Return the recipe with which the others are compared."""
        return self.recipes[0]
