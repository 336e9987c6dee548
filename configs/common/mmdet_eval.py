"""Where mmdet and Detectron2 differ at test time: parts that do as mmdet does.

For weights that mmdet has trained. Everything else that matters for them (RGB, pixel mean and std,
stride in the 3x3 convolutions, thresholds, stage-wise box weights, averaged logits and masks) is
how our LVIS configs are anyway.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.data import OpenCVResizeShortestEdge
from d2_seesaw.modeling.roi_heads import TwoSidedBox2BoxTransform

# A list, so that it is taken as a whole for dataloader.test.mapper.augmentations.
test_augmentations = [L(OpenCVResizeShortestEdge)(short_edge_length=800, max_size=1333)]

# To be merged into a Box2BoxTransform of the model, whose weights stay.
two_sided = dict(_target_=TwoSidedBox2BoxTransform)
