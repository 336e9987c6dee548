"""Feature Pyramid Grids (https://arxiv.org/abs/2004.03580), and their LVIS challenge 2020 variant.

Shapes in this module:
    L: pyramid levels, from the finest to the coarsest; each is half as large as the previous one
    C: channels of every level
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from detectron2.layers import get_norm
from detectron2.modeling.backbone import Backbone
from fvcore.nn import weight_init
from torch import Tensor, nn

from d2_seesaw.layers import CarafeDownsample, DeformConv2d
from d2_seesaw.layers.activation_checkpoint import checkpointed

Norm = str | Callable[[int], nn.Module]
Down = Literal["conv", "carafe", "bare_carafe"]
UpConv = Literal["conv", "dcnv2"]


class FPG(Backbone):
    """A grid of bottom-up pathways over the levels of a pyramid.

    Pathway 0 is a 1 x 1 convolution of each feature of ``bottom_up``, plus one more level with
    every second pixel of the last. In each of the ``stack`` pathways after it, a cell is the sum of

    - ``same_up``: a 3 x 3 convolution of stride 2 from the finer level of the same pathway,
    - ``across_lateral``: a 1 x 1 convolution from the same level of the previous pathway,
    - ``across_down``: a 3 x 3 convolution from the coarser level of the previous pathway, after
      nearest-neighbor upsampling,
    - ``across_skip``: a 1 x 1 convolution from the same level of pathway 0,

    each of which is ReLU, convolution, norm. The last pathway, after ReLU and a 3 x 3 convolution,
    is the output. The defaults are those of mmdet's benchmark: nine pathways, and BN.

    The "enhanced" FPG of the LVIS challenge 2020's winner (https://arxiv.org/abs/2008.10032,
    appendix D) is ``down="carafe", up_conv="dcnv2"``.

    Args:
        bottom_up: backbone; the stride of its features doubles from one to the next.
        in_features: names of its features, finest first.
        out_channels: C.
        norm: a name that Detectron2's ``get_norm`` knows, or a function from C to a module. Without
            norm (``""``) the convolutions have a bias.
        stack: number of pathways after pathway 0.
        skip: for each of the L levels, the pathways (from 0) in which it has no cell and copies the
            previous pathway. ``None`` is the paper's truncation: the coarsest level starts in the
            first pathway, and each finer one a pathway later.
        down: downsampling of ``same_up``. ``"carafe"`` is CARAFE++ followed by a 3 x 3 convolution
            with stride 1; ``"bare_carafe"`` is CARAFE++ without ReLU, convolution and norm.
        up_conv: ``"dcnv2"`` makes the convolutions of ``across_down`` deformable. They process one
            image at a time, because they need a large buffer.
        activation_checkpointing: keep only the output of each pathway and recompute the rest in the
            backward pass. Losses, gradients and norm statistics do not change. Not for use with
            ``torch.compile``, which chooses itself what to recompute.

    Raises:
        ValueError: the strides do not double, or an option does not exist.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: Norm = "BN",
        stack: int = 9,
        skip: Sequence[Collection[int]] | None = None,
        down: Down = "conv",
        up_conv: UpConv = "conv",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_choice("down", down, get_args(Down))
        _check_choice("up_conv", up_conv, get_args(UpConv))
        shapes = {name: bottom_up.output_shape()[name] for name in in_features}
        strides = _doubling({name: cast("int", shape.stride) for name, shape in shapes.items()})
        names = [f"p{int(math.log2(stride))}" for stride in strides]
        skip = _truncation(len(names)) if skip is None else _checked(skip, len(names), stack)

        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.activation_checkpointing = activation_checkpointing
        self.lateral_convs = nn.ModuleList(
            _filled(nn.Conv2d(cast("int", shape.channels), out_channels, 1))
            for shape in shapes.values()
        )
        self.pathways = nn.ModuleList()
        for s in range(stack):
            active = [name for name, skipped in zip(names, skip, strict=True) if s not in skipped]
            cells = {
                name: _Cell(
                    out_channels,
                    norm,
                    same_up=down if name != names[0] else None,
                    across_down=up_conv if name != names[-1] else None,
                )
                for name in active
            }
            self.pathways.append(_Pathway(names, cells))
        self.output_convs = nn.ModuleList(
            _filled(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in names
        )
        # Read by Backbone.output_shape.
        self._out_features = names
        self._out_feature_strides = dict(zip(names, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(names, out_channels)

    @property
    def size_divisibility(self) -> int:
        """Number that divides height and width of the images: 64 with features up to stride 32."""
        return self._out_feature_strides[self._out_features[-1]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Map images ``(N, 3, H, W)`` to features ``(N, C, H / stride, W / stride)`` by name.

        The names are ``p2`` to ``p6`` for strides of 4 to 64.

        Raises:
            ValueError: a side is not a multiple of :attr:`size_divisibility`.
        """
        if any(side % self.size_divisibility for side in x.shape[-2:]):
            raise ValueError(
                f"FPG needs images whose sides are multiples of {self.size_divisibility}, so that "
                f"each level is half of the previous one, got {tuple(x.shape[-2:])}; pad them to "
                "multiples of its size_divisibility"
            )
        features = self.bottom_up(x)
        first = [
            conv(features[name])
            for conv, name in zip(self.lateral_convs, self.in_features, strict=True)
        ]
        first.append(F.max_pool2d(first[-1], kernel_size=1, stride=2))
        levels = first
        for pathway in self.pathways:
            levels = self._run(pathway, levels, first)
        outputs = [
            conv(level.relu()) for conv, level in zip(self.output_convs, levels, strict=True)
        ]
        return dict(zip(self._out_features, outputs, strict=True))

    def _run(self, pathway: nn.Module, previous: list[Tensor], first: list[Tensor]) -> list[Tensor]:
        if not (self.activation_checkpointing and torch.is_grad_enabled()):
            return pathway(previous, first)
        return checkpointed(pathway, previous, first)


class _Pathway(nn.ModuleDict):
    """Cells of one pathway by level name."""

    def __init__(self, names: list[str], cells: Mapping[str, nn.Module]) -> None:
        super().__init__(dict(cells))
        self.names = names

    def forward(self, previous: list[Tensor], first: list[Tensor]) -> list[Tensor]:
        """Compute the L levels from those of the previous pathway and of pathway 0."""
        levels: list[Tensor] = []
        for i, (name, same, source) in enumerate(zip(self.names, previous, first, strict=True)):
            if name not in self:
                levels.append(same)
                continue
            finer = levels[-1] if i > 0 else None
            coarser = previous[i + 1] if i + 1 < len(previous) else None
            levels.append(self[name](finer, same, coarser, source))
        return levels


class _Cell(nn.Module):
    """Sum of the contributions of up to four neighbors in the grid."""

    def __init__(
        self, channels: int, norm: Norm, *, same_up: Down | None, across_down: UpConv | None
    ) -> None:
        super().__init__()
        self.same_up = _same_up(channels, norm, same_up) if same_up else None
        self.across_lateral = _transition(channels, norm, 1)
        self.across_down = _across_down(channels, norm, across_down) if across_down else None
        self.across_skip = _transition(channels, norm, 1)

    def forward(
        self, finer: Tensor | None, same: Tensor, coarser: Tensor | None, source: Tensor
    ) -> Tensor:
        x = self.across_lateral(same) + self.across_skip(source)
        if self.same_up is not None:
            x = x + self.same_up(finer)
        if self.across_down is not None:
            x = x + self.across_down(coarser)
        return x


def _same_up(channels: int, norm: Norm, down: Down) -> nn.Module:
    if down == "bare_carafe":
        return CarafeDownsample(channels)
    if down == "carafe":
        return _transition(channels, norm, 3, resample=CarafeDownsample(channels))
    return _transition(channels, norm, 3, stride=2)


def _across_down(channels: int, norm: Norm, up_conv: UpConv) -> nn.Module:
    # Per image, because the buffer has 0.94 GB for p2 of one image of 1280 x 1280 pixels.
    conv = partial(DeformConv2d, per_image=True) if up_conv == "dcnv2" else nn.Conv2d
    upsample = nn.Upsample(scale_factor=2, mode="nearest")
    return _transition(channels, norm, 3, resample=upsample, conv=conv)


def _transition(
    channels: int,
    norm: Norm,
    kernel_size: int,
    *,
    stride: int = 1,
    resample: nn.Module | None = None,
    conv: Callable[..., nn.Conv2d] = nn.Conv2d,
) -> nn.Sequential:
    """Build ReLU, optional resampling, convolution and norm."""
    layers = nn.Sequential()
    # Not in place: several transitions read the same features.
    layers.add_module("relu", nn.ReLU())
    if resample is not None:
        layers.add_module("resample", resample)
    padding = kernel_size // 2
    layers.add_module(
        "conv",
        _filled(
            conv(channels, channels, kernel_size, stride=stride, padding=padding, bias=not norm)
        ),
    )
    normalization = get_norm(norm, channels)
    if normalization is not None:
        layers.add_module("norm", normalization)
    return layers


def _filled(conv: nn.Conv2d) -> nn.Conv2d:
    weight_init.c2_xavier_fill(conv)
    return conv


def _truncation(levels: int) -> list[range]:
    """Return the skipped pathways per level: none for the coarsest, one more for each finer one."""
    return [range(levels - 1 - level) for level in range(levels)]


def _doubling(strides: dict[str, int]) -> list[int]:
    """Check that the strides double; return them and twice the last."""
    values = list(strides.values())
    if not values or any(b != 2 * a for a, b in pairwise(values)):
        raise ValueError(f"strides of in_features must double from one to the next, got {strides}")
    return [*values, 2 * values[-1]]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _checked(skip: Sequence[Collection[int]], levels: int, stack: int) -> Sequence[Collection[int]]:
    if len(skip) != levels or any(s not in range(stack) for skipped in skip for s in skipped):
        raise ValueError(
            f"skip must list pathways from 0 to {stack - 1} for each of {levels} levels, got {skip}"
        )
    return skip
