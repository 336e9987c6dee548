"""Semantic segmentation: folders of images and label maps, SYNTHIA, counts of pixels."""
