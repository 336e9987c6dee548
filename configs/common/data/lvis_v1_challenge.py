"""LVIS v1 as in the winning entry of the 2020 challenge: InstaBoost, scale jitter, large crops.

The long edge is resized to 768 to 1792 pixels, uniformly, then at most 1280 x 1280 are cropped.
Testing uses one scale, as in the tables of the Seesaw Loss paper. Lengths are given as fractions of
the crop, so that a small version only changes the crop:

    resize, crop, _ = dataloader.train.mapper.augmentations
    resize.update(target_height=160, target_width=160)
    crop.crop_size = (160, 160)
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from d2_seesaw.data import InstaBoost, InstanceAugmentationDatasetMapper

from .lvis_v1 import dataloader

_CROP = 1280

dataloader.train.mapper = L(InstanceAugmentationDatasetMapper)(
    is_train=True,
    instance_augmentation=L(InstaBoost)(image_format="${..image_format}"),
    augmentations=[
        L(T.ResizeScale)(
            min_scale=768 / 1280,
            max_scale=1792 / 1280,
            target_height=_CROP,
            target_width=_CROP,
        ),
        # Not T.FixedSizeCrop: it draws one number for both axes, so its crops lie on a diagonal.
        L(T.RandomCrop)(crop_type="absolute", crop_size=(_CROP, _CROP)),
        L(T.RandomFlip)(horizontal=True),
    ],
    image_format="${model.input_format}",
    use_instance_mask=True,
    recompute_boxes=True,  # the cropped box is larger than the box of the cropped mask
)
dataloader.train.num_workers = 8  # images of 640 x 480 are enlarged up to 2.8 times
