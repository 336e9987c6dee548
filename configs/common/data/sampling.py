"""Sampling of training images: parts for ``dataloader.train.sampling``."""

from detectron2.config import LazyCall as L

from d2_seesaw.data import (
    ClassBalancedSampling,
    ProgressivelyBalancedSampling,
    RandomSampling,
    RepeatFactorSampling,
    SquareRootSampling,
)

random = L(RandomSampling)()

# mmdet, which produced the published results, rounds repeat factors up. Detectron2 rounds them
# stochastically and thus repeats images less often.
repeat_factor = L(RepeatFactorSampling)(threshold=1e-3, rounding="ceil")

# A class, then an image of it (Kang et al., ICLR 2020).
class_balanced = L(ClassBalancedSampling)()
square_root = L(SquareRootSampling)()
progressively_balanced = L(ProgressivelyBalancedSampling)(epochs="${train.epochs}")
