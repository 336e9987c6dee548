"""How often training images are repeated: parts for ``dataloader.train.sampling``."""

from detectron2.config import LazyCall as L

from d2_seesaw.data import RandomSampling, RepeatFactorSampling

random = L(RandomSampling)()

# Rounded up, as in mmdet and behind the published numbers. Detectron2's rounding is "stochastic",
# which repeats less.
repeat_factor = L(RepeatFactorSampling)(threshold=1e-3, rounding="ceil")
