"""Mask heads with an exchangeable last layer, and the mask heads of all stages of a cascade.

Shapes in this module:
    B: RoIs of all images
    D: channels of the last feature
    C: foreground classes
    K: stages
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional as F

from d2_seesaw.layers import CarafeUpsample, LayerFactory
from d2_seesaw.layers.predictors import conv1x1_channel, is_pointwise


class MaskHeadWithPredictor(MaskRCNNConvUpsampleHead):
    """Detectron2's convolutional mask head with a given predictor.

    With ``normed_mask_predictor()`` it is the "Norm Mask" of the Seesaw Loss paper (section 4.3).
    Names and shapes of the weights are those of the base class for any predictor, so a checkpoint
    does not show which predictor it was trained with; the config does.

    Only one mask per RoI is used: that of its true class in training and of its predicted class in
    inference. A plain or normalized 1 x 1 convolution therefore computes only that channel. Results
    and gradients are the same, without the ``(B, C, H, W)`` logits, which take 483 MB at 128 RoIs
    and 1203 classes, and as much again for their gradient. Other predictors, and the inherited
    ``layers``, compute all channels.

    Args:
        input_shape: shape of one RoI's feature.
        predictor: a module from ``conv_dims[-1]`` channels to ``num_classes``, or a function that
            builds one from these two numbers.
        num_classes: foreground classes, 1 for class-agnostic masks.
        conv_dims: channels of the convolutions and, last, of the upsampling layer.
        head_options: other arguments of ``MaskRCNNConvUpsampleHead``.

    Raises:
        ValueError: the predictor's channels do not match.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        predictor: nn.Module | LayerFactory,
        num_classes: int,
        conv_dims: list[int],
        **head_options: Any,
    ) -> None:
        super().__init__(input_shape, num_classes=num_classes, conv_dims=conv_dims, **head_options)
        if not isinstance(predictor, nn.Module):
            predictor = predictor(conv_dims[-1], num_classes)
        given = [getattr(predictor, name, None) for name in ("in_channels", "out_channels")]
        needed = [conv_dims[-1], num_classes]
        if any(g is not None and g != n for g, n in zip(given, needed, strict=True)):
            raise ValueError(
                f"predictor maps {given[0]} channels to {given[1]}, but the mask head needs "
                f"{needed[0]} channels to {needed[1]} classes"
            )
        self.predictor = predictor

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """Return losses in training, ``instances`` with ``pred_masks`` in inference.

        Args:
            x: ``(B, channels, H, W)`` features of all RoIs.
            instances: per image, with ``gt_classes`` and ``gt_masks`` or with ``pred_classes``.
        """
        return self.results(self.class_logits(x, instances), instances)

    def results(self, logits: Tensor, instances: list[Instances]) -> Any:
        """Convert the ``(B, 1, H', W')`` output of :meth:`class_logits` to that of ``forward``."""
        # Detectron2 treats one channel as class-agnostic and does not select a class.
        if self.training:
            return {
                "loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight
            }
        mask_rcnn_inference(logits, instances)
        return instances

    def class_logits(self, x: Tensor, instances: list[Instances]) -> Tensor:
        """Compute the ``(B, 1, H', W')`` logits of each RoI's class, true or predicted."""
        return self.decoded(self.encoded(x), instances)

    @property
    def encoder(self) -> list[nn.Module]:
        """Convolutions, without the upsampling and the predictor that follow."""
        return [layer for name, layer in self.named_children() if name.startswith("mask_fcn")]

    def encoded(self, x: Tensor) -> Tensor:
        """Compute the features of the last convolution, before the upsampling."""
        for layer in self.encoder:
            x = layer(x)
        return x

    def decoded(self, x: Tensor, instances: list[Instances]) -> Tensor:
        """Compute the output of :meth:`class_logits` from that of :meth:`encoded`."""
        *layers, _ = self
        for layer in layers[len(self.encoder) :]:
            x = layer(x)
        predictor = self.predictor
        classes = torch.cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        if is_pointwise(predictor) and predictor.out_channels != 1:
            return conv1x1_channel(cast("nn.Conv2d", predictor), x, classes)
        logits = predictor(x)
        if logits.shape[1] == 1:
            return logits
        return logits[torch.arange(logits.shape[0], device=logits.device), classes][:, None]


class AveragedMaskHeads(nn.ModuleList):
    """Mask heads of a cascade: trained one by one, averaged in inference.

    In inference it is called like a single head. ``pred_masks`` are the mean of the heads'
    sigmoids, as in mmdet, and so are ``mask_scores`` if the heads are
    :class:`~d2_seesaw.modeling.roi_heads.ScoredMaskHead`.
    """

    def forward(self, x: Any, instances: list[Instances]) -> list[Instances]:
        """Set the mean predictions of ``instances`` from ``x``, the features of their RoIs.

        Raises:
            RuntimeError: in training, where each head has its own RoIs and loss.
        """
        if self.training:
            raise RuntimeError("the heads of AveragedMaskHeads are trained one by one: call them")
        predicted = [[i.get_fields().copy() for i in head(x, instances)] for head in self]
        for i, head_fields in zip(instances, zip(*predicted, strict=True), strict=True):
            for name in {"pred_masks", "mask_scores"} & head_fields[0].keys():
                i.set(name, sum(fields[name] for fields in head_fields) / len(self))
        return instances

    def stage_losses(self, stage: int, x: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        """Return the losses of the head of ``stage`` from the features of its positives."""
        return self[stage](x, instances)


MASK_FUSIONS = ("average", "last")


class HTCMaskHeads(nn.Module):
    """Mask heads of Hybrid Task Cascade, each of which also sees the features of the previous one.

    Section 3.1 of the paper (https://arxiv.org/abs/1901.07518), "mask information flow": the
    features of head k before its upsampling pass through a 1 x 1 convolution with ReLU,
    ``conv_res``, and are added to the input of head k + 1. All earlier heads therefore run on the
    RoIs of a stage, in training too, where they learn from the losses of later stages.

    Args:
        heads: K mask heads, such as ``MaskHeadWithPredictor`` or ``CarafeMaskHead``.
        information_flow: pass features on. Without it the heads are independent.
        fusion: masks in inference. ``"average"`` is the mean of the heads' sigmoids, as in mmdet
            2.x, with which the numbers of its model zoo were measured; ``"last"`` is the mask of
            the last head, as in mmdet 3.3.0.

    Raises:
        ValueError: ``fusion`` is unknown, or a head is of another type, such as ``ScoredMaskHead``.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        *,
        information_flow: bool = True,
        fusion: str = "average",
    ) -> None:
        super().__init__()
        if fusion not in MASK_FUSIONS:
            raise ValueError(f"fusion must be one of {list(MASK_FUSIONS)}, got {fusion!r}")
        checked: list[MaskHeadWithPredictor] = []
        for k, head in enumerate(heads):
            if not isinstance(head, MaskHeadWithPredictor):
                raise ValueError(
                    "the mask heads of HTC must be MaskHeadWithPredictor, which gives its features "
                    f"to the next head; mask head {k} is {type(head).__name__}. Mask scoring is "
                    "not supported here, only in LossDrivenCascadeROIHeads and HTCLiteROIHeads"
                )
            self.add_module(str(k), head)
            checked.append(head)
        self.num_heads = len(heads)
        self.fusion = fusion
        links = {}
        if information_flow:
            links = {str(k): _link(*pair) for k, pair in enumerate(pairwise(checked), start=1)}
        self.conv_res = nn.ModuleDict(links)

    def __len__(self) -> int:
        return self.num_heads

    def __iter__(self) -> Iterator[MaskHeadWithPredictor]:
        return (cast("MaskHeadWithPredictor", self.get_submodule(str(k))) for k in range(len(self)))

    def encoded(self, x: Tensor) -> Iterator[tuple[MaskHeadWithPredictor, Tensor]]:
        """Yield each head with its features, from ``(B, channels, H, W)`` features of the RoIs."""
        previous = x
        for k, head in enumerate(self):
            link = str(k)
            given = x
            if link in self.conv_res:
                given = x + F.relu(self.conv_res[link](previous))
            previous = head.encoded(given)
            yield head, previous

    def forward(self, x: Tensor, instances: list[Instances]) -> list[Instances]:
        """Set ``pred_masks`` of ``instances`` from ``x``, the features of their RoIs.

        Raises:
            RuntimeError: in training, where each head has its own RoIs and loss.
        """
        if self.training:
            raise RuntimeError("the heads of HTCMaskHeads are trained by stage_losses")
        if not instances:
            return instances
        heads = list(self.encoded(x))
        used = heads[-1:] if self.fusion == "last" else heads
        # Under autocast the logits are in half precision; their mean is not.
        masks = sum(head.decoded(features, instances).float().sigmoid() for head, features in used)
        masks = cast("Tensor", masks) / len(used)
        for i, image in zip(instances, masks.split([len(i) for i in instances]), strict=True):
            i.pred_masks = image
        return instances

    def stage_losses(self, stage: int, x: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        """Return the losses of the head of ``stage`` from the features of its positives.

        Args:
            stage: index of the head.
            x: ``(B, channels, H, W)`` features of the RoIs.
            instances: per image, with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``.
        """
        for k, (head, features) in enumerate(self.encoded(x)):
            if k == stage:
                return head.results(head.decoded(features, instances), instances)
        raise IndexError(f"stage {stage} has no mask head: there are {len(self)}")


def _link(before: MaskHeadWithPredictor, after: MaskHeadWithPredictor) -> nn.Conv2d:
    """Return the 1 x 1 convolution from the features of a head to the input of the next."""
    *_, last = (layer.out_channels for layer in before.encoder)
    first = cast("nn.Conv2d", after.encoder[0]).in_channels
    conv = nn.Conv2d(cast("int", last), first, 1)
    c2_msra_fill(conv)
    return conv


class CarafeMaskHead(MaskHeadWithPredictor):
    """Mask head with CARAFE instead of the transposed convolution and its ReLU.

    The mask head of the CARAFE paper (https://arxiv.org/abs/1905.02188, section 4.2) and of the
    winner of the LVIS challenge 2020: convolutions, ``upsample``, predictor. Everything else is as
    in :class:`MaskHeadWithPredictor`, including the names of weights, except that ``upsample.*``
    replaces ``deconv.*``.

    Args:
        input_shape: shape of one RoI's feature.
        conv_dims: channels of the convolutions and, last, of the upsampling layer. The last two
            must be equal, because CARAFE keeps the number of channels.
        upsample: a module that keeps the number of channels, or a function that builds one from it.
        head_options: other arguments of :class:`MaskHeadWithPredictor`.

    Raises:
        ValueError: the channels do not match.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        upsample: nn.Module | Callable[[int], nn.Module] = CarafeUpsample,
        **head_options: Any,
    ) -> None:
        super().__init__(input_shape, conv_dims=conv_dims, **head_options)
        *_, channels, upsampled = [cast("int", input_shape.channels), *conv_dims]
        if upsampled != channels:
            raise ValueError(
                f"CARAFE keeps its {channels} channels, but conv_dims has {upsampled} after it: "
                f"make the last two of {conv_dims} equal"
            )
        if not isinstance(upsample, nn.Module):
            upsample = upsample(channels)
        given = getattr(upsample, "in_channels", channels)
        if given != channels:
            raise ValueError(f"upsample has {given} input channels, but its input has {channels}")
        # The layers of a mask head run in the order of registration.
        predictor = self.predictor
        del self.deconv, self.deconv_relu, self.predictor
        self.upsample = upsample
        self.predictor = predictor
