"""Tests of reading files of mmdet 2.x and 3.x, and files that would run code."""

import os
import sys
import types

import numpy as np
import pytest
import torch

from d2_seesaw.checkpoint import read_mmdet_file

STATE = {"a.weight": torch.arange(3.0)}


class Runs:
    """Object that is pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def mmengine():
    """Yield a class that pickles like mmengine's history of a loss."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.array([1.5, 2.5])
            self._statistics_methods = {"mean": HistoryBuffer.mean}

        def mean(self):
            raise AssertionError("ran")

    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    HistoryBuffer.mean.__module__ = module.__name__
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer
    names = ("mmengine", "mmengine.logging", module.__name__)
    sys.modules.update(dict.fromkeys(names, module))
    yield HistoryBuffer
    for name in names:
        sys.modules.pop(name, None)


def forget_mmengine():
    for name in [n for n in sys.modules if n.startswith("mmengine")]:
        del sys.modules[name]


def saved(tmp_path, content, **options):
    torch.save(content, tmp_path / "model.pth", **options)
    return tmp_path / "model.pth"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_mmdet_2(tmp_path, zipped):
    meta = {"config": "model = dict(...)", "CLASSES": ("a", "b"), "epoch": 24, "seed": None}
    content = {"meta": meta, "state_dict": STATE}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    file = read_mmdet_file(path)
    assert file.config == "model = dict(...)"
    torch.testing.assert_close(file.state, STATE)


def test_a_file_of_mmdet_3_without_mmengine(tmp_path, mmengine):
    hub = {"log_scalars": {"train/loss": mmengine()}, "runtime_info": {"lr": np.float64(0.02)}}
    content = {"meta": {"cfg": "text"}, "state_dict": STATE, "message_hub": hub}
    path = saved(tmp_path, content)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    assert {"builtins.getattr", "mmengine.logging.history_buffer.HistoryBuffer"} <= set(names)
    forget_mmengine()
    file = read_mmdet_file(path)
    assert file.config == "text"
    torch.testing.assert_close(file.state, STATE)
    assert "mmengine" not in sys.modules


def test_a_file_with_weights_alone(tmp_path):
    file = read_mmdet_file(saved(tmp_path, STATE))
    assert file.config == ""
    assert file.state.keys() == STATE.keys()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "function", "text"),
    [
        ("eval", eval, "open({path!r}, 'w')"),
        ("exec", exec, "open({path!r}, 'w')"),
        ("posix.system", os.system, "touch {path}"),
    ],
)
def test_a_file_that_would_run_code_is_rejected_without_running_it(
    tmp_path, name, function, text, zipped
):
    call = Runs(function, text.format(path=str(tmp_path / "ran")))
    content = {"state_dict": STATE, "meta": call}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"objects other than tensors: {name}\..*--trust"):
        read_mmdet_file(path)
    assert not (tmp_path / "ran").exists()
    # Check the test itself: the file runs code if it is trusted.
    read_mmdet_file(path, trust=True)
    assert (tmp_path / "ran").exists()


def test_ignored_objects_are_never_called(tmp_path):
    path = saved(tmp_path, {"state_dict": STATE, "x": Runs(getattr, "text", "no such attribute")})
    assert read_mmdet_file(path).state.keys() == STATE.keys()  # getattr would have raised


def test_reading_does_not_change_torchs_safe_globals(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    read_mmdet_file(saved(tmp_path, STATE))
    assert set(torch.serialization.get_safe_globals()) == before


def test_trusted_files_need_the_packages_of_their_objects(tmp_path, mmengine):
    path = saved(tmp_path, {"state_dict": STATE, "message_hub": mmengine()})
    forget_mmengine()
    with pytest.raises(ValueError, match="contains objects of 'mmengine'; install it first"):
        read_mmdet_file(path, trust=True)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, {"state_dict": {"a": 1}}])
def test_files_that_are_not_checkpoints_are_reported(tmp_path, content):
    with pytest.raises(ValueError, match="expected a checkpoint of mmdet"):
        read_mmdet_file(saved(tmp_path, content))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth. does not exist"):
        read_mmdet_file(tmp_path / "nothing.pth")
