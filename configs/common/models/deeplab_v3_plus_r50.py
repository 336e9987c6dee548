"""DeepLab v3+ with R50 at output stride 16, otherwise the same as with R18."""

from .deeplab_v3_plus_r18 import model

model.backbone.stages.depth = 50
model.sem_seg_head.input_shape.res2.channels = 256
model.sem_seg_head.input_shape.res5.channels = 2048
