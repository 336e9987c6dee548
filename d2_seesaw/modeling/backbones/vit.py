"""Detectron2's plain vision transformer with activation checkpointing by PyTorch, and layer decay.

Shapes in this module:
    N: images
    H, W: height and width of the padded images
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from detectron2.modeling import ViT
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from d2_seesaw.layers.activation_checkpoint import checkpointed


class PlainViT(ViT):
    """Detectron2's ``ViT`` (ViTDet, https://arxiv.org/abs/2203.16527), without fairscale.

    Detectron2 checkpoints activations with fairscale, which is no longer maintained. Here PyTorch
    does it. Names and shapes of the weights are those of the base class, with and without
    ``use_act_checkpoint``. Needs ``pip install timm``, as the base class does.

    Args:
        use_act_checkpoint: recompute the activations of each block in the backward pass.
        options: other arguments of ``ViT``.

    Raises:
        ImportError: timm is not installed.
    """

    def __init__(self, *, use_act_checkpoint: bool = False, **options: Any) -> None:
        if find_spec("timm") is None:
            raise ImportError("Detectron2's ViT needs timm: pip install timm")
        super().__init__(**options)
        if use_act_checkpoint:
            for index, block in enumerate(self.blocks):
                self.blocks[index] = checkpoint_wrapper(block, checkpoint_fn=checkpointed)


def layer_decay(*, rate: float, num_layers: int) -> Callable[[str], float]:
    """Return a function from a parameter's name to the factor on its learning rate.

    It is Detectron2's ``get_vit_lr_decay_rate`` with its arguments, as a config can hold it: block
    ``i`` of the backbone gets ``rate ** (num_layers - i)``, the embeddings before the first block
    ``rate ** (num_layers + 1)``, and all other parameters 1. It reads names such as
    ``backbone.net.blocks.3.attn.qkv.weight``, of Detectron2's ``ViT`` and of timm's.

    Args:
        rate: factor from one block to the one before it, in ``(0, 1]``.
        num_layers: number of blocks.

    Raises:
        ValueError: ``rate`` is out of range.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be in (0, 1], got {rate}")
    return partial(get_vit_lr_decay_rate, lr_decay_rate=rate, num_layers=num_layers)
