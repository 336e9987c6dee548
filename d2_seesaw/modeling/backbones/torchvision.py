"""Backbone for Detectron2 from any torchvision classifier that is a sequence of stages.

Shapes in this module:
    N: images
    H, W: height and width of the padded images
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torchvision.ops import Permute

from d2_seesaw.modeling.backbones.timm import replace_batch_norms
from d2_seesaw.utils.text import did_you_mean

# Size of the image that shows the strides. No stride maps it to a square, so that a map's height
# and width are found whether its channels come first or last.
PROBE = (64, 96)
STEM_STRIDE = 4


@dataclass(frozen=True)
class _Part:
    """A module of the sequence, and the map that it computes."""

    path: str
    stride: int
    channels: int
    channels_last: bool

    @property
    def feature(self) -> str:
        """Return the name that a feature map of this stride has."""
        return f"res{int(math.log2(self.stride))}"


class TorchvisionBackbone(Backbone):
    """A torchvision classifier as a backbone, with feature maps named by stride.

    ``res2`` has stride 4, ``res3`` stride 8 and so on, as in Detectron2's ResNet. If several parts
    of the model have the same stride, it is the last one. Every model whose parts follow each
    other works: ResNet, ResNeXt, MobileNet, EfficientNet, RegNet, ConvNeXt, Swin Transformer and
    others.

    The weights are under ``body``, with torchvision's names; the classifier is left out. Load
    pretrained ones with ``train.init_checkpoint="torchvision://MobileNet_V2_Weights.IMAGENET1K_V1"``.
    The model must take RGB input with the mean and the standard deviation of these weights.

    Args:
        name: torchvision's name of the model, such as ``mobilenet_v2``.
        out_features: names of the maps to return.
        norm: ``BN`` as torchvision builds it, ``FrozenBN`` or ``SyncBN``, which here also runs on
            CPUs.
        freeze_at: 0 trains everything, 1 freezes the stem, 2 also ``res2`` and so on until 5, as in
            Detectron2's ResNet. Frozen parts stay in evaluation mode and run without a graph, so
            that they cost no backward pass and their weights and norm statistics do not change.
        output_norm: normalize each map with a new ``LayerNorm``. Swin Transformers and ConvNeXts
            need it, because their stages end without a norm; by default, models with layer norms
            get them.
        model_options: other arguments of ``torchvision.models.get_model``, such as
            ``stochastic_depth_prob``.

    Raises:
        ValueError: torchvision has no such model, or it has no map of a requested stride.
    """

    def __init__(
        self,
        name: str,
        *,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "BN",
        freeze_at: int = 0,
        output_norm: bool | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.body = _build(name, dict(model_options or {}))
        parts = _sequence(name, self.body)
        self._ends = {part.feature: part for part in parts if part.stride >= STEM_STRIDE}
        unknown = [feature for feature in out_features if feature not in self._ends]
        if unknown or not out_features:
            has = ", ".join(f"{f} (stride {p.stride})" for f, p in self._ends.items()) or "none"
            raise ValueError(f"{name} has no features {unknown}; it has {has}")
        last = max(parts.index(self._ends[feature]) for feature in out_features)
        self._parts = parts[: last + 1]
        self._num_frozen = min(self._number_of_frozen(parts, freeze_at), last + 1)
        self._out_features = list(out_features)
        self._out_feature_channels = {f: self._ends[f].channels for f in out_features}
        self._out_feature_strides = {f: self._ends[f].stride for f in out_features}
        _keep(self.body, {part.path for part in self._parts})
        if output_norm is None:
            output_norm = any(isinstance(m, nn.LayerNorm) for m in self.body.modules())
        replace_batch_norms(self.body, norm)
        self.output_norms = nn.ModuleDict(
            {f: nn.LayerNorm(c) for f, c in self._out_feature_channels.items() if output_norm}
        )
        for part in self._frozen_modules():
            part.requires_grad_(False)
        self.train()

    @property
    def size_divisibility(self) -> int:
        """Return the largest stride: sizes that it does not divide would be rounded down."""
        return max(self._out_feature_strides.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Map ``(N, 3, H, W)`` to maps ``(N, channels, H / stride, W / stride)`` by name."""
        features: dict[str, Tensor] = {}
        with torch.no_grad():
            x = self._run(x, self._parts[: self._num_frozen], features)
        self._run(x, self._parts[self._num_frozen :], features)
        return {name: self._output(name, features[name]) for name in self._out_features}

    def _run(self, x: Tensor, parts: Sequence[_Part], features: dict[str, Tensor]) -> Tensor:
        for part in parts:
            x = self.body.get_submodule(part.path)(x)
            if self._ends.get(part.feature) == part:
                features[part.feature] = x
        return x

    def _output(self, name: str, x: Tensor) -> Tensor:
        """Normalize a map and move its channels to the front."""
        channels_last = self._ends[name].channels_last
        if name in self.output_norms:
            x = self.output_norms[name](x if channels_last else x.permute(0, 2, 3, 1))
            channels_last = True
        return x.permute(0, 3, 1, 2).contiguous() if channels_last else x

    def train(self, mode: bool = True) -> "TorchvisionBackbone":
        """Set the mode of all parts except the frozen ones."""
        super().train(mode)
        for part in self._frozen_modules():
            part.eval()
        return self

    def _number_of_frozen(self, parts: Sequence[_Part], freeze_at: int) -> int:
        """Return how many parts ``freeze_at`` freezes."""
        if freeze_at == 0:
            return 0
        if freeze_at == 1:
            # The stem ends before stride 4, unless its first layer has this stride at once.
            return sum(part.stride < STEM_STRIDE for part in parts) or 1
        if f"res{freeze_at}" not in self._ends:
            raise ValueError(
                f"freeze_at must be 0, 1 or the number of one of {list(self._ends)} of "
                f"{self.name}, got {freeze_at}"
            )
        return parts.index(self._ends[f"res{freeze_at}"]) + 1

    def _frozen_modules(self) -> Iterator[nn.Module]:
        for part in self._parts[: self._num_frozen]:
            yield self.body.get_submodule(part.path)


def _build(name: str, options: Mapping[str, Any]) -> nn.Module:
    import torchvision
    from torchvision.models import get_model, list_models

    models = list_models(module=torchvision.models)
    if name not in models:
        hint = did_you_mean(name, models)
        raise ValueError(f"torchvision {torchvision.__version__} has no classifier {name!r}{hint}")
    try:
        return get_model(name, weights=None, **options)
    except TypeError as error:
        raise ValueError(f"model_options of {name}: {error}") from error


Calls = Mapping[str, tuple[Any, Any]]


def _sequence(name: str, model: nn.Module) -> list[_Part]:
    """Return the parts of a model up to its classifier, in execution order."""
    image = torch.zeros(1, 3, *PROBE, device=next(model.parameters()).device)
    try:
        calls = _record_calls(model.eval(), image)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name} has no feature maps for images of any size; with {PROBE[0]} x {PROBE[1]} "
            f"pixels it fails: {reason}"
        ) from error
    parts: list[_Part] = []
    x = image
    for path in _paths(model, calls):
        given, output = calls.get(path, (None, None))
        part = _part(path, output)
        if given is not x or part is None:
            break
        parts.append(part)
        x = output
    # Swin Transformers end with the norm of their classifier.
    while parts and isinstance(model.get_submodule(parts[-1].path), nn.LayerNorm | Permute):
        parts.pop()
    return parts


def _paths(model: nn.Module, calls: Calls) -> Iterator[str]:
    """Yield the modules of a model, and those inside its sequences that have several strides."""
    for name, child in model.named_children():
        inside = [f"{name}.{n}" for n, _ in child.named_children()]
        parts = [_part(path, calls[path][1]) for path in inside if path in calls]
        # Such as "features"; any other sequence is one stage.
        if type(child) is nn.Sequential and len({part and part.stride for part in parts}) > 1:
            yield from inside
        else:
            yield name


def _record_calls(model: nn.Module, image: Tensor) -> Calls:
    """Return the first input and the output of each module's last call, by its path."""
    calls: dict[str, tuple[Any, Any]] = {}

    def recorder(path: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[path] = (inputs[0] if inputs else None, output)

        return record

    hooks = [m.register_forward_hook(recorder(path)) for path, m in model.named_modules() if path]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return calls


def _part(path: str, output: Any) -> _Part | None:
    """Return the part that computed ``output``; None unless it is a map with a stride 2 ** n."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        return None
    shape = tuple(output.shape)
    for stride in (1, 2, 4, 8, 16, 32):
        size = (PROBE[0] // stride, PROBE[1] // stride)
        if size in (shape[2:], shape[1:3]):
            channels_last = shape[2:] != size
            return _Part(path, stride, shape[3 if channels_last else 1], channels_last)
    return None


def _keep(model: nn.Module, paths: Collection[str], prefix: str = "") -> None:
    """Remove all modules but those at these paths, and those around them."""
    for name, child in list(model.named_children()):
        path = f"{prefix}{name}"
        if path in paths:
            continue
        if any(kept.startswith(f"{path}.") for kept in paths):
            _keep(child, paths, f"{path}.")
        else:
            delattr(model, name)
