"""How often images with label maps are repeated: parts for ``dataloader.train.sampling``."""

from detectron2.config import LazyCall as L

from d2_seesaw.data import SemanticRepeatFactorSampling

# By the share of images that contain a class, as for instances.
by_images = L(SemanticRepeatFactorSampling)(
    threshold=0.1, num_classes="${model.sem_seg_head.num_classes}", frequency="image"
)

# By the share of pixels, which is far smaller for thin and small classes.
by_pixels = L(SemanticRepeatFactorSampling)(
    threshold=0.01, num_classes="${model.sem_seg_head.num_classes}", frequency="pixel"
)
