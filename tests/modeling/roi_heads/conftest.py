"""Feature maps and boxes of the tests of poolers."""

import pytest
import torch
from detectron2.structures import Boxes

from tests.modeling.roi_heads import parts


@pytest.fixture
def maps():
    return [m.detach().requires_grad_() for m in parts.features(3).values()]


@pytest.fixture
def boxes():
    """Return boxes of three images, one of them empty; small and large boxes alternate."""
    lists = [torch.rand(6, 4) * 20, torch.zeros(0, 4), torch.rand(4, 4) * 20]
    for image_boxes in lists:
        image_boxes[:, 2:] += image_boxes[:, :2] + 4
        image_boxes[::2, 2:] += 30
    return [Boxes(image_boxes) for image_boxes in lists]
