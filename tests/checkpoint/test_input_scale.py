"""Estimate of the input that a backbone was trained with, from batch norms that saw such input."""

import pytest
import torch
from detectron2.layers import Conv2d
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer, save_weights


class Net(nn.Module):
    def __init__(self, std, input_format):
        super().__init__()
        self.conv1 = Conv2d(3, 16, 7, stride=2, bias=False, norm=nn.BatchNorm2d(16, momentum=None))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), std), persistent=False)
        self.input_format = input_format


def trained(std):
    """Return a network whose batch norm saw smooth color images of ``std``."""
    net = Net(std, "BGR")
    noise = torch.randn(8, 3, 16, 16)
    images = nn.functional.interpolate(noise, size=64, mode="bicubic")
    net.conv1(58.0 / std * images / images.std() + 0.1)
    return net


CASES = [
    (1.0, 1.0, "BGR", None),
    (58.0, 58.0, "RGB", None),
    (58.0, 58.0, "BGR", None),
    (1.0, 58.0, "RGB", "trained with BGR pixels .* gets pixels divided"),
    (58.0, 1.0, "BGR", "trained with pixels divided .* gets BGR pixels"),
    (1.0, 1.0, "RGB", "the model gets RGB"),
]


@pytest.mark.parametrize(("std", "own_std", "input_format", "message"), CASES)
def test_input_of_another_scale_is_refused_at_the_start(
    tmp_path, caplog, std, own_std, input_format, message
):
    save_weights(tmp_path / "m.pth", trained(std).state_dict())
    load = StrictCheckpointer(Net(own_std, input_format)).load
    if message is None:
        load(str(tmp_path / "m.pth"))
        return
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "m.pth"))
    StrictCheckpointer(Net(own_std, input_format), require_all=True).load(str(tmp_path / "m.pth"))


def test_without_statistics_of_data_nothing_is_known(tmp_path):
    save_weights(tmp_path / "m.pth", Net(1.0, "BGR").state_dict())
    StrictCheckpointer(Net(58.0, "RGB")).load(str(tmp_path / "m.pth"))
