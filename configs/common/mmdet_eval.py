"""Test settings of mmdet, for weights that were trained with mmdet.

Everything else that matters for such weights (RGB, pixel mean and std, stride in the 3x3
convolutions, thresholds, box weights of each stage, averaged logits and masks) is the same in all
our LVIS configs.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.data import OpenCVResizeShortestEdge
from d2_seesaw.modeling.roi_heads import TwoSidedBox2BoxTransform

# Replaces the whole list dataloader.test.mapper.augmentations.
test_augmentations = [L(OpenCVResizeShortestEdge)(short_edge_length=800, max_size=1333)]

# Use with `update` on a Box2BoxTransform of the model; the transform keeps its weights.
two_sided = dict(_target_=TwoSidedBox2BoxTransform)
