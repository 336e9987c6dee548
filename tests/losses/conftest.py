import pytest
import torch


@pytest.fixture
def batch():
    """Return float64 logits (2, 5, 4, 5) and labels with all 5 classes and three ignored pixels."""
    labels = torch.arange(40).remainder(11).clamp(max=4).view(2, 4, 5)
    labels[0, 0, :2] = labels[1, 3, 4] = 255
    return 2 * torch.randn(2, 5, 4, 5, dtype=torch.float64), labels
