"""Generators of deterministic datasets: instances and street scenes."""

from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.street import SemanticSpec, generate_semantic_dataset

__all__ = [
    "LongTailSpec",
    "SemanticSpec",
    "generate_longtail_dataset",
    "generate_semantic_dataset",
]
