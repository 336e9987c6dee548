from contextlib import suppress

import pytest
from torch import nn

from d2_seesaw.inference.tta import evaluating, temporarily_disabled


def heads():
    module = nn.Module()
    module.mask_on, module.keypoint_on = True, False
    return module


def test_flags_are_off_inside_and_back_afterwards():
    module = heads()
    with temporarily_disabled(module, "mask_on", "keypoint_on", "unknown_on"):
        assert (module.mask_on, module.keypoint_on) == (False, False)
        assert not hasattr(module, "unknown_on")
    assert (module.mask_on, module.keypoint_on) == (True, False)


def test_flags_are_back_after_an_exception():
    module = heads()
    with pytest.raises(KeyError), temporarily_disabled(module, "mask_on"):
        raise KeyError
    assert module.mask_on is True


def test_every_module_gets_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3))
    model.train()
    model[1].eval()
    with suppress(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False]
