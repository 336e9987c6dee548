"""Repeat factor sampling of images with label maps: parts for ``dataloader.train.sampling``."""

from detectron2.config import LazyCall as L

from d2_seesaw.data import SemanticRepeatFactorSampling

# Class frequency is the share of images that contain the class, as for instances.
by_images = L(SemanticRepeatFactorSampling)(
    threshold=0.1, num_classes="${model.sem_seg_head.num_classes}", frequency="image"
)

# Class frequency is the share of pixels, which is far smaller for thin and small classes.
by_pixels = L(SemanticRepeatFactorSampling)(
    threshold=0.01, num_classes="${model.sem_seg_head.num_classes}", frequency="pixel"
)
