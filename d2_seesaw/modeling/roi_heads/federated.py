"""Class weights of Detectron2's federated loss, as a config can hold them."""

from collections.abc import Callable
from functools import partial

from detectron2.data.detection_utils import get_fed_loss_cls_weights
from torch import Tensor


def federated_class_weights(*, dataset: str, power: float = 0.5) -> Callable[[], Tensor]:
    """Return a function that computes the sampling weights of Detectron2's federated loss.

    For ``get_fed_loss_cls_weights`` of ``FastRCNNOutputLayers``. The weight of a class is its
    number of training images to the given power. The numbers are the ``class_image_count`` in the
    metadata of the dataset, which ``lvis_v1_train`` has without its files.

    Args:
        dataset: name of the registered training dataset.
        power: exponent; 0.5 in Detectron2's LVIS recipes.
    """
    return partial(get_fed_loss_cls_weights, dataset, freq_weight_power=power)
