"""Fixtures of the tests that compare CUDA with the CPU."""

from collections.abc import Iterator

import pytest
import torch

from tests.gpu.agreement import TEST_DEVICE


@pytest.fixture
def device() -> torch.device:
    """Return the device that is compared with the CPU."""
    return torch.device(TEST_DEVICE)


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    """Turn TF32 off: with its 10-bit mantissa, convolutions differ by 1e-3."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
