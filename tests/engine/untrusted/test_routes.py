"""Ways in which a file of somebody else has run, or could run, code: none does without trust.

Each route tries to make a folder. Where the code of the file would run with ``trust``, that is
tested too, so that a route that has become harmless for another reason is noticed.
"""

import copy
import io
import os
import pickle
import sys
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import LazyConfig
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer, read_mmdet_file
from d2_seesaw.cli.train import argument_parser, read_config
from d2_seesaw.engine import load_config
from d2_seesaw.engine.untrusted.yaml_files import read_yaml_config
from d2_seesaw.inference import load_predictor

MARK = "ran"
SHIPPED = "quickstart/seesaw"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Return the content of a saved shipped config."""
    path = tmp_path_factory.mktemp("shipped") / "config.yaml"
    LazyConfig.save(load_config(SHIPPED), str(path))
    return yaml.unsafe_load(path.read_text())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the current folder, with a module, a Python config and pickles that make a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = f"import os\nos.makedirs('{MARK}', exist_ok=True)\nX = dict\n"
    for name in ("evil_module.py", "evil_config.py"):
        (tmp_path / name).write_text(code)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    torch.save(Evil(), tmp_path / "evil.pth")
    (tmp_path / "model.pth").write_bytes(b"not reached")
    yield tmp_path
    sys.modules.pop("evil_module", None)


class Evil:
    def __reduce__(self):
        return os.mkdir, (MARK,)


MKDIR = f"_target_: os.mkdir, path: {MARK}"
CALL = f"!!python/object/apply:os.mkdir [{MARK}]"
# Where in the config, and what takes the place of the value there.
IN_CONFIGS = {
    "a tag that calls": ("model.backbone", CALL),
    "a tag that makes an object": ("model.backbone", f"!!python/object/new:os.mkdir [{MARK}]"),
    "a tag in a list": ("model.backbone.in_features", f"[a, {CALL}]"),
    "a tag that imports": ("model.backbone", "!!python/module:evil_module"),
    "a target": ("model", f"{{{MKDIR}}}"),
    "a target within others": ("model.backbone.bottom_up.stem", f"{{{MKDIR}}}"),
    "a target in a list": ("dataloader.test.mapper.augmentations", f"[{{{MKDIR}}}]"),
    "a target of the views": ("tta.merge", f"{{{MKDIR}}}"),
    "a target by a tag": (
        "model.backbone",
        f"{{_target_: !!python/name:os.mkdir '', path: {MARK}}}",
    ),
    "a target that is a call": (
        "model.backbone",
        f"{{_target_: {{_target_: pydoc.locate, path: os.mkdir}}, path: {MARK}}}",
    ),
    "a target by a reference": (
        "model",
        f"{{_target_: '${{train.output_dir}}', path: {MARK}}}",
    ),
    "a target in the text of a resolver": (
        "model.backbone",
        f"'${{oc.create:${{oc.decode:\"{{{MKDIR}}}\"}}}}'",
    ),
    "a target by a merged anchor": (
        "model",
        f"{{x: &x {{{MKDIR}}}, backbone: {{<<: *x}}, _target_: torch.nn.Identity}}",
    ),
    "a module elsewhere": ("model.backbone", "{_target_: evil_module.X}"),
    "another module inside a listed one": (
        "model.backbone",
        f"{{_target_: torch.nn.modules.module.torch.save, obj: 1, f: {MARK}}}",
    ),
    "NumPy inside Detectron2": (
        "model.backbone",
        f"{{_target_: detectron2.modeling.backbone.vit.torch.save, obj: 1, f: {MARK}}}",
    ),
    "a Python config": (
        "model.backbone",
        "{_target_: detectron2.config.LazyConfig.load, filename: evil_config.py}",
    ),
    "the builder of other configs": (
        "model.backbone",
        f"{{_target_: detectron2.config.instantiate, cfg: {{{MKDIR}}}}}",
    ),
    "a function that reads pickles": (
        "model.backbone",
        "{_target_: torch.load, f: evil.pth, weights_only: false}",
    ),
    "an extension of Detectron2's set-up": (
        "model.backbone",
        "{_target_: detectron2.utils.env.setup_custom_environment, custom_module: evil_module}",
    ),
    "a file for timm": (
        "model.backbone",
        "{_target_: d2_seesaw.modeling.TimmBackbone, name: resnet18, model_options: "
        "{checkpoint_path: evil.pth}}",
    ),
    "a model of the hub": (
        "model.backbone",
        "{_target_: d2_seesaw.modeling.TimmBackbone, name: 'local-dir:.'}",
    ),
    "a part of mmdet": (
        "model.backbone",
        "{_target_: detectron2.modeling.MMDetBackbone, backbone: {type: Evil}, output_shape: []}",
    ),
    "a config of Detectron2 inside": (
        "model",
        "{_target_: detectron2.modeling.GeneralizedRCNN, cfg: {MODEL: {}}}",
    ),
}
AFTER_WEIGHTS = ("a target in a list", "a target of the views")
NO_CODE = (  # refused, but without a way to run code that is known here
    "a target that is a call",
    "a file for timm",
    "a model of the hub",
    "a part of mmdet",
    "a config of Detectron2 inside",
    "a tag that makes an object",
)


def write(shipped, folder, key, value):
    """Write the shipped config with a value in the place of another one."""
    content = copy.deepcopy(shipped)
    content["train"]["output_dir"] = "os.mkdir"
    parent = content
    *path, last = key.split(".")
    for name in path:
        parent = parent[name]
    parent[last] = "@"
    text = yaml.dump(content, Dumper=getattr(yaml, "CDumper", yaml.Dumper)).replace("'@'", value)
    (folder / "config.yaml").write_text(text)
    return str(folder / "config.yaml")


def load(folder, **options):
    return load_predictor(folder / "model.pth", device="cpu", tta=True, **options)


@pytest.mark.parametrize("name", IN_CONFIGS)
def test_a_config_beside_a_checkpoint_runs_nothing(shipped, folder, name):
    write(shipped, folder, *IN_CONFIGS[name])
    with pytest.raises(ValueError, match=r"config .*config\.yaml'[: ].*") as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert not (folder / MARK).exists()


@pytest.mark.parametrize("name", [n for n in IN_CONFIGS if n not in (*NO_CODE, *AFTER_WEIGHTS)])
def test_a_config_that_is_trusted_does(shipped, folder, name):
    key, value = IN_CONFIGS[name]
    write(shipped, folder, key, value)
    with pytest.raises(Exception, match=r"\w"):
        load(folder, trust=True)
    assert (folder / MARK).exists()


@pytest.mark.parametrize("name", list(IN_CONFIGS)[::5])
def test_a_yaml_config_of_a_training_runs_nothing(shipped, folder, name):
    path = write(shipped, folder, *IN_CONFIGS[name])
    with pytest.raises(ValueError, match=r"config .*config\.yaml'[: ].*"):
        read_config(argument_parser().parse_args(["--config-file", path]))
    assert not (folder / MARK).exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataloader.train.mapper", "{_target_: evil_module.X}"),
        ("dataloader.train.mapper", f"{{{MKDIR}}}"),
        ("dataloader.train.sampling", CALL),
        ("dataloader.evaluator.report", "!!python/name:evil_module.X ''"),
    ],
)
def test_parts_that_prediction_does_not_need_are_not_looked_at(shipped, folder, key, value):
    write(shipped, folder, key, value)
    override = [f"{key}={{a:1}}"] if "mapper" in key else []
    cfg = load_config("config.yaml", override, parts=("model", "dataloader.test.mapper"))
    LazyConfig.save(cfg, "again.yaml")  # which Detectron2 reads back with yaml.unsafe_load
    read_yaml_config("again.yaml")
    with pytest.raises(ValueError, match=r"model\.pth cannot be read"):
        load(folder)
    assert not (folder / MARK).exists()
    assert "evil_module" not in sys.modules


def test_proposals_of_a_training_are_not_unpickled(shipped, folder):
    yacs = "DATASETS: {TRAIN: [a], PROPOSAL_FILES_TRAIN: [evil.pkl]}, MODEL: {LOAD_PROPOSALS: 1}"
    given = f"{{names: a, {yacs}}}"
    for split in ("train", "test"):
        path = write(shipped, folder, f"dataloader.{split}.dataset", given)
        with pytest.raises(ValueError, match="dataset must be built by load_dataset"):
            load_config(path)


def legacy(content):
    torch.save(content, file := io.BytesIO(), _use_new_zipfile_serialization=False)
    return file.getvalue()


def zipped(content):
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


class Tampered:
    """Pickled as an ordered dictionary whose state replaces one of its methods."""

    def __reduce__(self):
        return OrderedDict, (), {"items": Evil()}


IN_WEIGHTS = {
    "a pickle": (".pkl", pickle.dumps(Evil())),
    "a pickle of protocol 0": (".pkl", pickle.dumps(Evil(), 0)),
    "weights and a call": (".pkl", pickle.dumps({"model": {}, "__author__": Evil()})),
    "an array of objects": (".pkl", pickle.dumps({"w": np.array([Evil()], dtype=object)}, 2)),
    "state of a container": (".pkl", pickle.dumps(Tampered())),
    "a function as a value": (".pkl", pickle.dumps({"model": os.mkdir, "__author__": "x"})),
    "a nested name": (".pkl", b"\x80\x04\x8c\x05numpy\x8c\x09os.mkdir\x93\x8c\x03ran\x85R."),
    "an extension code": (".pkl", b"\x80\x02\x82\x01\x8c\x03ran\x85R."),
    "an old instance": (".pkl", f"(S'{MARK}'\nios\nmkdir\n.".encode()),
    "weights of PyTorch": (".pth", zipped({"model": {}, "x": Evil()})),
    "weights of old PyTorch": (".pth", legacy({"model": {}, "x": Evil()})),
    "weights of pycls": (".pyth", legacy({"model_state": Evil()})),
    "a pickle under another name": (".pth", pickle.dumps(Evil())),
}


@pytest.mark.parametrize("name", IN_WEIGHTS)
def test_weights_run_nothing(folder, name):
    suffix, data = IN_WEIGHTS[name]
    path = folder / f"weights{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"weights\{suffix} cannot be read: ") as error:
        StrictCheckpointer(nn.Linear(2, 2)).load(str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"\w"):
        read_mmdet_file(path)
    assert not (folder / MARK).exists()


def test_a_file_of_mmdet_runs_nothing_unless_it_is_trusted(folder):
    torch.save({"state_dict": {}, "meta": Evil()}, folder / "mmdet.pth")
    for trust in (False, True):
        with pytest.raises(ValueError, match=r"\w"):
            read_mmdet_file(folder / "mmdet.pth", trust=trust)
        assert (folder / MARK).exists() == trust


def test_weights_for_timm_run_nothing(folder):
    from d2_seesaw.modeling.backbones.timm import _pretrained

    with pytest.raises(ValueError, match=r"evil\.pth is not a file of torch\.save with tensors"):
        _pretrained("evil.pth")
    assert not (folder / MARK).exists()


def test_the_flag_reaches_the_config(shipped, folder, monkeypatch):
    seen = []
    fake = SimpleNamespace(train=SimpleNamespace(max_iter=None, epochs=None))
    monkeypatch.setattr(
        "d2_seesaw.cli.train.reading.load_config", lambda *_, **o: seen.append(o["trust"]) or fake
    )
    for flags in ([], ["--trust"]):
        args = argument_parser().parse_args(["--config-file", "c.yaml", *flags])
        with pytest.raises((ValueError, TypeError)):
            read_config(args)
    assert seen == [False, True]
