"""Semantic segmentation: folders of images and label maps, SYNTHIA, pixel counts."""
