"""SYNTHIA, sequence 5 in summer, as Recall Loss's authors load it.

Sixteen classes (all ids, void among them), a random split of the frames of each camera, images in
BGR that are resized to 768 x 384 with OpenCV, and no augmentation. Their split depends on the order
in which a file system lists the files, and cannot be repeated.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.data import OpenCVResize

from .cityscapes import dataloader

_resize = L(OpenCVResize)(shape=(384, 768))

dataloader.train.dataset.names = "synthia_seqs_05_summer_authors_train"
dataloader.test.dataset.names = "synthia_seqs_05_summer_authors_val"
for _part in (dataloader.train, dataloader.test):
    _part.mapper.augmentations = [_resize]
    _part.mapper.image_format = "BGR"
