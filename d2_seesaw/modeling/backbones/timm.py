"""Backbone for Detectron2 from any timm model that has feature maps.

Shapes in this module:
    N: images
    H, W: height and width of the padded images
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from d2_seesaw.layers import SyncBatchNorm2d, deform_convs
from d2_seesaw.layers.activation_checkpoint import checkpointed
from d2_seesaw.utils.text import did_you_mean

KINDS = ("BN", "FrozenBN", "SyncBN")


def replace_batch_norms(model: nn.Module, kind: str) -> None:
    """Replace every batch norm inside a ``model`` of timm or torchvision, in place.

    The names of the weights do not change. Layers that timm fuses with their activation become
    timm's own types; with ``SyncBN`` these are ``nn.SyncBatchNorm``, which needs GPUs.

    Args:
        model: model whose batch norms are replaced.
        kind: ``BN`` keeps them; ``FrozenBN`` freezes statistics, scale and shift; ``SyncBN``
            computes the statistics over all ranks.

    Raises:
        ValueError: ``kind`` is unknown, or the model has no batch norms.
    """
    if kind not in KINDS:
        raise ValueError(f"norm must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "BN":
        return
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        raise ValueError(f"the model has no batch norm to replace by {kind!r}; use norm='BN'")
    if kind == "FrozenBN":
        # torchvision's, which timm uses, converts half-precision features to float32.
        _replace(model, FrozenBatchNorm2d.convert_frozen_batchnorm, "freeze_batch_norm_2d")
    else:
        _replace(model, _synchronized, "convert_sync_batchnorm")


Replacement = Callable[[nn.Module], nn.Module]


def _replace(model: nn.Module, plain: Replacement, fused: str) -> None:
    """Replace norms by ``plain``, and those of timm's own types by its function ``fused``."""
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(model, name, plain(child))
        elif isinstance(child, nn.BatchNorm2d):
            from timm.layers import norm_act

            setattr(model, name, getattr(norm_act, fused)(child))
        else:
            _replace(child, plain, fused)


def _synchronized(norm: nn.Module) -> nn.Module:
    same = SyncBatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)  # type: ignore[arg-type]
    same.load_state_dict(norm.state_dict(), assign=True)
    return same


class TimmBackbone(Backbone):
    """A timm model as a backbone, with feature maps named by stride.

    ``res2`` has stride 4, ``res3`` stride 8 and so on, as in Detectron2's ResNet. If several maps
    have the same stride, it is the last one. ``resnest50d``, ``resnest101e`` and ``resnest200e``
    are the models of the ResNeSt paper, https://arxiv.org/abs/2004.08955. Needs
    ``pip install timm``.

    The weights are under ``body``, with the names of timm's ``features_only`` models.

    Args:
        name: timm's name of the model, such as ``resnest50d``.
        pretrained: True downloads timm's weights. A path loads a state dict of the whole model with
            timm's names; a classifier in it is ignored. A checkpoint that is loaded later replaces
            them.
        out_features: names of the maps to return.
        norm: ``BN`` as timm builds it, ``FrozenBN`` or ``SyncBN``, which here also runs on CPUs.
        freeze_at: 0 trains everything, 1 freezes the layers before the first stage, 2 also the
            first stage, as in Detectron2's ResNet. Frozen parts stay in evaluation mode, so that
            their weights and norm statistics do not change.
        dcn_stages: maps whose stages use deformable 3 x 3 convolutions (DCNv2) with the weights of
            the plain ones. For timm's ResNet and ResNeSt; ``res3`` to ``res5`` in the papers.
        dcn_options: ``deform_groups``, ``mask_gain`` and ``per_image`` of ``DeformConv2d``. A
            ``mask_gain`` of 2 preserves pretrained features, 1 does not.
        checkpoint: recompute the activations of each block in the backward pass.
        drop_path_rate: probability of skipping the last block; it grows linearly from 0.
        model_options: other arguments of ``timm.create_model``, such as ``img_size``.

    Raises:
        ValueError: timm has no such model, the model has no map of a requested stride, or it does
            not support an option.
        ImportError: timm is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "BN",
        freeze_at: int = 0,
        dcn_stages: Sequence[str] = (),
        dcn_options: Mapping[str, Any] | None = None,
        checkpoint: bool = False,
        drop_path_rate: float = 0.0,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        options = dict(model_options or {}) | _pretrained(pretrained)
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        self.body, self._stages = _build(name, out_features, options)
        if drop_path_rate:
            _check_drop_path(name, self.body)
        self._out_features = list(out_features)
        self._out_feature_channels = {f: self._stages[f].channels for f in out_features}
        self._out_feature_strides = {f: self._stages[f].stride for f in out_features}
        if dcn_stages:
            parts = "|".join(re.escape(self._part_of(stage)) for stage in dcn_stages)
            deform_convs(self.body, rf"({parts})\.\d+\.conv2(\.conv)?", **(dcn_options or {}))
        replace_batch_norms(self.body, norm)
        self._frozen = self._parts_up_to(freeze_at)
        for part in self._frozen:
            part.requires_grad_(False)
        if checkpoint and not _checkpoint_blocks(self.body):
            raise ValueError(f"{name} has no sequence of blocks, so checkpoint=True has no effect")
        self.train()

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Map ``(N, 3, H, W)`` to ``(N, channels, H / stride, W / stride)`` feature maps by name.

        Raises:
            ValueError: a batch norm in training mode has one value per channel, as in ResNeSt's
                split attention with one image.
        """
        try:
            maps = self.body(x)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{self.name} normalizes features of 1 x 1 pixel, which in training needs more "
                f"than one image per process, got {len(x)}: use two images per process, "
                "norm='FrozenBN', or norm='SyncBN' with several processes"
            ) from error
        positions = {index: at for at, index in enumerate(self.body.feature_info.out_indices)}
        channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        features = {}
        for name in self._out_features:
            feature = maps[positions[self._stages[name].index]]
            features[name] = feature.permute(0, 3, 1, 2).contiguous() if channels_last else feature
        return features

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode of all parts except the frozen ones."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def _part_of(self, feature: str) -> str:
        """Return the name of the part of ``body`` that ends with a feature map."""
        parts = [name for name, _ in self.body.named_children()]
        # timm joins the names of nested parts when it flattens them.
        ends = {f: stage.module.replace(".", "_") for f, stage in self._stages.items()}
        if ends.get(feature) not in parts:
            reached = sorted(f for f, end in ends.items() if end in parts)
            raise ValueError(
                f"{self.name} has no separate part that ends with {feature!r}, only with "
                f"{reached}; freeze_at and dcn_stages need one"
            )
        return ends[feature]

    def _parts_up_to(self, freeze_at: int) -> list[nn.Module]:
        """Return the parts that ``freeze_at`` freezes, in execution order."""
        if freeze_at == 0:
            return []
        parts = dict(self.body.named_children())
        count = list(parts).index(self._part_of(f"res{max(freeze_at, 2)}"))
        return list(parts.values())[: count + (freeze_at > 1)]


@dataclass(frozen=True)
class _Stage:
    """The last feature map of a stride in a timm model; ``module`` computes it."""

    index: int
    stride: int
    channels: int
    module: str


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError("TimmBackbone needs timm: pip install timm") from error
    return timm


def _pretrained(source: bool | str) -> dict[str, Any]:
    if isinstance(source, bool):
        return {"pretrained": source}
    if not Path(source).is_file():
        raise ValueError(f"pretrained must be True, False or a file, but {source!r} does not exist")
    if Path(source).suffix != ".safetensors":  # before timm, of which older versions would run it
        try:
            torch.load(source, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(
                f"pretrained: {source} is not a file of torch.save with tensors"
            ) from error
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": source}}


def _build(
    name: str, out_features: Sequence[str], options: dict[str, Any]
) -> tuple[Any, dict[str, _Stage]]:
    """Build the model up to the last requested map; also return all maps the full model has."""
    timm = _timm()
    if ":" not in name and not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise ValueError(f"timm {timm.__version__} has no model {name!r}{hint}")
    body = timm.create_model(name, features_only=True, **options)
    stages = {
        f"res{math.log2(info['reduction']):g}": _Stage(
            index, info["reduction"], info["num_chs"], info["module"]
        )
        for index, info in enumerate(body.feature_info.info)
    }
    unknown = [feature for feature in out_features if feature not in stages]
    if unknown:
        has = ", ".join(f"{feature} (stride {s.stride})" for feature, s in stages.items())
        raise ValueError(f"{name} has no features {unknown}; it has {has}")
    wanted = sorted(stages[feature].index for feature in out_features)
    built = body.feature_info.out_indices
    if not set(wanted) <= set(built) or max(built) != wanted[-1]:
        # Without unused layers: DDP waits for the gradients of all weights.
        body = timm.create_model(name, features_only=True, out_indices=wanted, **options)
    return body, stages


def _check_drop_path(name: str, body: nn.Module) -> None:
    from timm.models.resnest import ResNestBottleneck

    if any(isinstance(module, ResNestBottleneck) for module in body.modules()):
        raise ValueError(
            f"drop_path_rate must be 0 for {name}: for ResNeSt, timm drops shortcuts with weights "
            "instead of blocks"
        )


def _checkpoint_blocks(module: nn.Module) -> int:
    """Wrap each block of all sequences of blocks; return the number of blocks."""
    count = 0
    for name, child in module.named_children():
        is_block = isinstance(module, nn.Sequential | nn.ModuleList) and any(child.children())
        if is_block:
            setattr(module, name, checkpoint_wrapper(child, checkpoint_fn=checkpointed))
        count += 1 if is_block else _checkpoint_blocks(child)
    return count
