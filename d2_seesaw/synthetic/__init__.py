"""Generators of deterministic datasets: instances, street scenes and pictures."""

from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.pictures import ClassificationSpec, generate_classification_dataset
from d2_seesaw.synthetic.street import SemanticSpec, generate_semantic_dataset

__all__ = [
    "ClassificationSpec",
    "LongTailSpec",
    "SemanticSpec",
    "generate_classification_dataset",
    "generate_longtail_dataset",
    "generate_semantic_dataset",
]
