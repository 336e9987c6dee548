"""Datasets composed of cut-outs: pictures with alpha masks over backgrounds."""

from d2_seesaw.synthetic.cutouts.dataset import GeneratedCutouts, generate_cutout_dataset
from d2_seesaw.synthetic.cutouts.spec import CutoutSources, CutoutSpec, CutoutStyle

__all__ = [
    "CutoutSources",
    "CutoutSpec",
    "CutoutStyle",
    "GeneratedCutouts",
    "generate_cutout_dataset",
]
