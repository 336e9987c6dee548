"""Sampling of training images: parts for ``dataloader.train.sampling``."""

from detectron2.config import LazyCall as L

from d2_seesaw.data import RandomSampling, RepeatFactorSampling

random = L(RandomSampling)()

# mmdet, and with it the published numbers, round up. Detectron2 uses "stochastic" rounding, which
# repeats images less often.
repeat_factor = L(RepeatFactorSampling)(threshold=1e-3, rounding="ceil")
