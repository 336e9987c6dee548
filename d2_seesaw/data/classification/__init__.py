"""Image classification: lists of labeled images in ImageNet-LT's format, and their mapper."""
