"""Another kind of batch norm in a model that is already built, keeping its weights."""

from collections.abc import Callable

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from d2_seesaw.layers import SyncBatchNorm2d

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
        _replace(model, _synchronised, convert_sync_batchnorm)


Replacement = Callable[[nn.Module], nn.Module]


def _replace(model: nn.Module, plain: Replacement, fused: Replacement) -> None:
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(model, name, plain(child))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(model, name, fused(child))
        else:
            _replace(child, plain, fused)


def _synchronised(norm: nn.Module) -> nn.Module:
    same = SyncBatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)  # type: ignore[arg-type]
    same.load_state_dict(norm.state_dict(), assign=True)
    return same
