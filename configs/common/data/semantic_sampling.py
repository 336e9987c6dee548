"""How often training images are shown: parts for ``dataloader.train.sampling`` of label maps."""

from detectron2.config import LazyCall as L

from d2_seesaw.data import SemanticRepeatFactorSampling

# By the share of the images that show a class, as for objects.
by_images = L(SemanticRepeatFactorSampling)(
    threshold=0.1, num_classes="${model.sem_seg_head.num_classes}", frequency="image"
)

# By the share of the pixels, which are far smaller for thin and small classes.
by_pixels = L(SemanticRepeatFactorSampling)(
    threshold=0.01, num_classes="${model.sem_seg_head.num_classes}", frequency="pixel"
)
