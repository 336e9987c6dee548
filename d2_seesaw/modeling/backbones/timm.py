"""Any model of timm that has feature maps, behind Detectron2's backbone interface.

Shapes in this module:
    N: images
    H, W: height and width of the padded images
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from d2_seesaw.layers import SyncBatchNorm2d, deform_convs
from d2_seesaw.layers.activation_checkpoint import checkpointed
from d2_seesaw.utils.text import did_you_mean

KINDS = ("BN", "FrozenBN", "SyncBN")


def replace_batch_norms(model: nn.Module, kind: str) -> None:
    """Turn every batch norm inside timm's ``model`` into the given kind, in place.

    The names of the weights stay. Layers that timm fuses with their activation become those of
    timm's that are: synchronised, they are ``nn.SyncBatchNorm``, which on several ranks needs GPUs.

    Args:
        model: what holds the batch norms.
        kind: ``BN`` leaves them as they are; ``FrozenBN`` fixes statistics, scale and shift;
            ``SyncBN`` takes the statistics over all ranks.

    Raises:
        ValueError: another kind, or a model without batch norms.
    """
    if kind not in KINDS:
        raise ValueError(f"norm must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "BN":
        return
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        raise ValueError(f"there is no batch norm that norm={kind!r} could replace; leave it 'BN'")
    from timm.layers.norm_act import convert_sync_batchnorm, freeze_batch_norm_2d

    if kind == "FrozenBN":
        # torchvision's, which timm takes, would turn half-precision features into float32.
        _replace(model, FrozenBatchNorm2d.convert_frozen_batchnorm, freeze_batch_norm_2d)
    else:
        _replace(model, _synchronized, convert_sync_batchnorm)


Replacement = Callable[[nn.Module], nn.Module]


def _replace(model: nn.Module, plain: Replacement, fused: Replacement) -> None:
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(model, name, plain(child))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(model, name, fused(child))
        else:
            _replace(child, plain, fused)


def _synchronized(norm: nn.Module) -> nn.Module:
    same = SyncBatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)  # type: ignore[arg-type]
    same.load_state_dict(norm.state_dict(), assign=True)
    return same


class TimmBackbone(Backbone):
    """A model of timm as a backbone, its feature maps named after their strides.

    ``res2`` has stride 4, ``res3`` stride 8 and so on, as in Detectron2's ResNet; of several maps
    of one stride it is the last. ``resnest50d``, ``resnest101e`` and ``resnest200e`` are the models
    of the ResNeSt paper, https://arxiv.org/abs/2004.08955. Needs ``pip install timm``.

    The weights are below ``body`` under the names that timm gives them in a model for features.

    Args:
        name: of the model in timm, such as ``resnest50d``.
        pretrained: timm's own weights, which it downloads, or the path of a file with a state dict
            of the whole model under timm's names, where a classifier does not matter. A checkpoint
            that is loaded later replaces them.
        out_features: names of the maps that are wanted.
        norm: ``BN`` as timm builds it, ``FrozenBN`` or ``SyncBN``, which here also runs on CPUs.
        freeze_at: 0 trains everything, 1 freezes what comes before the first stage, 2 the first
            stage too, as in Detectron2's ResNet. Frozen parts are in evaluation mode for good:
            neither their weights nor the statistics of their norms move.
        dcn_stages: maps whose stages get deformable 3 x 3 convolutions (DCNv2) for plain ones, in
            timm's ResNet and ResNeSt, with the same weights; in the papers ``res3`` to ``res5``.
        dcn_options: ``deform_groups``, ``mask_gain`` and ``per_image`` of ``DeformConv2d``. With a
            ``mask_gain`` of 2 pretrained features stay what they were, with 1 they do not.
        checkpoint: compute the activations of each block again in the backward pass.
        drop_path_rate: probability of leaving out the last block, growing linearly from 0.
        model_options: other arguments of ``timm.create_model``, such as ``img_size``.

    Raises:
        ValueError: timm has no such model, it has no map of a wanted stride, or an option does not
            fit it.
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
            raise ValueError(f"{name} has no rows of blocks, so checkpoint=True is of no use")
        self.train()

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Feature maps ``(N, channels, H / stride, W / stride)`` by name, for ``(N, 3, H, W)``.

        Raises:
            ValueError: a batch norm in training mode has one value per channel, as those inside
                ResNeSt's split attention for one image.
        """
        try:
            maps = self.body(x)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{self.name} normalises features of 1 x 1 pixel, which in training takes more "
                f"than one image, got {len(x)} on this process: give each process two, or the "
                "backbone norm='SyncBN' on several processes, or norm='FrozenBN'"
            ) from error
        positions = {index: at for at, index in enumerate(self.body.feature_info.out_indices)}
        channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        features = {}
        for name in self._out_features:
            feature = maps[positions[self._stages[name].index]]
            features[name] = feature.permute(0, 3, 1, 2).contiguous() if channels_last else feature
        return features

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode of all parts but the frozen ones."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def _part_of(self, feature: str) -> str:
        """Name of the part of ``body`` that ends with a feature map."""
        parts = [name for name, _ in self.body.named_children()]
        # timm joins the names of nested parts when it puts them into a row.
        ends = {f: stage.module.replace(".", "_") for f, stage in self._stages.items()}
        if ends.get(feature) not in parts:
            reached = sorted(f for f, end in ends.items() if end in parts)
            raise ValueError(
                f"{self.name} has no part of its own that ends with {feature!r}, only for "
                f"{reached}: freeze_at and dcn_stages need one"
            )
        return ends[feature]

    def _parts_up_to(self, freeze_at: int) -> list[nn.Module]:
        """The parts that ``freeze_at`` freezes, in the order in which they run."""
        if freeze_at == 0:
            return []
        parts = dict(self.body.named_children())
        count = list(parts).index(self._part_of(f"res{max(freeze_at, 2)}"))
        return list(parts.values())[: count + (freeze_at > 1)]


@dataclass(frozen=True)
class _Stage:
    """A feature map of a timm model: the last of its stride, made by the part named ``module``."""

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
        raise ValueError(f"pretrained must be True, False or a file, there is no file {source!r}")
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": source}}


def _build(
    name: str, out_features: Sequence[str], options: dict[str, Any]
) -> tuple[Any, dict[str, _Stage]]:
    """The model without what follows the last wanted map, and all the maps it has."""
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
        # Without the rest: DDP waits for the gradients of all weights.
        body = timm.create_model(name, features_only=True, out_indices=wanted, **options)
    return body, stages


def _check_drop_path(name: str, body: nn.Module) -> None:
    from timm.models.resnest import ResNestBottleneck

    if any(isinstance(module, ResNestBottleneck) for module in body.modules()):
        raise ValueError(
            f"drop_path_rate must be 0 for {name}: timm drops the shortcuts of ResNeSt's blocks, "
            "and only where they have weights, instead of the blocks"
        )


def _checkpoint_blocks(module: nn.Module) -> int:
    """Wrap the members of all rows of blocks; how many there are."""
    count = 0
    for name, child in module.named_children():
        is_block = isinstance(module, nn.Sequential | nn.ModuleList) and any(child.children())
        if is_block:
            setattr(module, name, checkpoint_wrapper(child, checkpoint_fn=checkpointed))
        count += 1 if is_block else _checkpoint_blocks(child)
    return count
