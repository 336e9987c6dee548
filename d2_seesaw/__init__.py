"""Long-tailed recognition for Detectron2: Seesaw Loss, its heads, data, evaluation and recipe."""

__version__ = "0.2.0"
