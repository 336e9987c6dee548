import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.engine import compile_parts


class Backbone(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.runs_in_python = 0

    def forward(self, input):
        if not torch.compiler.is_compiling():
            self.runs_in_python += 1
        return super().forward(input)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.heads = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 3)])

    def forward(self, x):
        y = self.backbone(x).mean(dim=(2, 3))
        return self.heads[1](self.heads[0](y))


def outputs_and_gradients(model, x):
    y = model(x)
    y.square().sum().backward()
    return y, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_outputs_gradients_and_statistics_stay_within_1e_6(backend):
    model, x = Model(), torch.randn(2, 3, 8, 8)
    compiled = copy.deepcopy(model)
    compile_parts(compiled, ["backbone"], backend=backend)
    assert_close(
        outputs_and_gradients(compiled, x), outputs_and_gradients(model, x), rtol=1e-6, atol=1e-6
    )
    assert_close(dict(compiled.state_dict()), dict(model.state_dict()), rtol=1e-6, atol=1e-6)
    assert (model.backbone.runs_in_python, compiled.backbone.runs_in_python) == (1, 0)


def test_a_second_image_size_runs_compiled():
    model = Model().eval()
    plain = copy.deepcopy(model)
    compile_parts(model, ["backbone"], backend="eager")
    for size in (8, 12, 16):
        x = torch.randn(2, 3, size, size)
        assert_close(model(x), plain(x))
    assert model.backbone.runs_in_python == 0


def test_checkpoints_of_compiled_and_plain_models_are_interchangeable(tmp_path):
    plain, compiled = Model(), Model()
    names = list(compiled.state_dict())
    compile_parts(compiled, ["backbone", "heads.0"], backend="eager")
    compiled(torch.randn(2, 3, 8, 8))
    assert list(compiled.state_dict()) == names
    StrictCheckpointer(compiled, str(tmp_path)).save("compiled")
    StrictCheckpointer(plain, require_all=True).load(str(tmp_path / "compiled.pth"))
    assert_close(dict(plain.state_dict()), dict(compiled.state_dict()), rtol=0, atol=0)
    StrictCheckpointer(Model(), str(tmp_path)).save("plain")
    StrictCheckpointer(compiled, require_all=True).load(str(tmp_path / "plain.pth"))


def test_a_copy_of_a_compiled_model_is_plain():
    # The model with averaged weights is such a copy.
    model = Model()
    compile_parts(model, ["backbone"], backend="eager")
    copied = copy.deepcopy(model)
    copied(torch.randn(2, 3, 8, 8))
    assert copied.backbone.runs_in_python == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["backbne"], r"no part 'backbne'; did you mean 'backbone'\? Its parts are \['backbone', "),
        (["neck"], r"no part 'neck'\. Its parts are \['backbone', 'heads'\]"),
        ([""], r"no part ''\. Its parts are"),
        (["heads"], r"'heads' is a list of modules.* Name its entries \['heads.0', 'heads.1'\]"),
        ("backbone", r"must be a list such as \[backbone\], got 'backbone'"),
    ],
)
def test_an_unknown_part_is_reported_with_the_available_ones(parts, message):
    with pytest.raises(ValueError, match=message):
        compile_parts(Model(), parts)


def test_nothing_is_compiled_if_one_part_is_unknown():
    model = Model()
    with pytest.raises(ValueError, match="no part 'neck'"):
        compile_parts(model, ["backbone", "neck"], backend="eager")
    model(torch.randn(2, 3, 8, 8))
    assert model.backbone.runs_in_python == 1


def test_an_unknown_backend_is_an_error_before_the_first_step():
    with pytest.raises(Exception, match="Invalid backend"):
        compile_parts(Model(), ["backbone"], backend="no_such")
