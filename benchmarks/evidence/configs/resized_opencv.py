"""resized.py with OpenCV, which does not antialias."""

from d2_seesaw.data import OpenCVResizeShortestEdge

from .resized import dataloader, lr_multiplier, model, optimizer, train

for _mapper in (dataloader.train.mapper, dataloader.test.mapper):
    _mapper.augmentations[0]._target_ = OpenCVResizeShortestEdge
