"""Mask heads whose last layer is given rather than fixed, and several of them as one.

Shapes in this module:
    B: RoIs of all images
    D: channels of the last feature
    C: foreground classes
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_seesaw.layers import CarafeUpsample, LayerFactory
from d2_seesaw.layers.predictors import conv1x1_channel, is_pointwise


class MaskHeadWithPredictor(MaskRCNNConvUpsampleHead):
    """Detectron2's convolution and up-sampling mask head with a predictor of one's own.

    With ``normed_mask_predictor()`` it is the "Norm Mask" of the Seesaw Loss paper (section 4.3).
    The names and shapes of the weights are those of the base class whatever the predictor, so a
    checkpoint does not tell which one it was trained with: the config does.

    Only one mask per RoI is ever used: that of its class, the true one in training and the
    predicted one in inference. So of a 1 x 1 convolution, plain or normalised, only that channel is
    computed: results and gradients are the same, without the ``(B, C, H, W)`` logits, which at 128
    RoIs and 1203 classes are 483 MB and as much again for their gradient. Predictors of other kinds
    compute all channels; so does ``layers``.

    Args:
        input_shape: shape of one RoI's feature.
        predictor: a module from ``conv_dims[-1]`` channels to ``num_classes``, or a function that
            builds one from these two numbers.
        num_classes: foreground classes, 1 for class-agnostic masks.
        conv_dims: channels of the convolutions and, last, of the up-sampling layer.
        head_options: the other arguments of ``MaskRCNNConvUpsampleHead``.

    Raises:
        ValueError: a predictor whose channels do not fit.
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
        """Losses in training, ``instances`` with ``pred_masks`` in inference.

        Args:
            x: ``(B, channels, H, W)`` features of all RoIs.
            instances: per image, with ``gt_classes`` and ``gt_masks`` or with ``pred_classes``.
        """
        return self.results(self.class_logits(x, instances), instances)

    def results(self, logits: Tensor, instances: list[Instances]) -> Any:
        """What :meth:`forward` returns, from the ``(B, 1, H', W')`` of :meth:`class_logits`."""
        # One channel is what Detectron2 takes for class-agnostic masks: it looks for no class.
        if self.training:
            return {
                "loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight
            }
        mask_rcnn_inference(logits, instances)
        return instances

    def class_logits(self, x: Tensor, instances: list[Instances]) -> Tensor:
        """``(B, 1, H', W')``: for each RoI the logits of its class, true or predicted."""
        *layers, _ = self
        for layer in layers:
            x = layer(x)
        predictor = self.predictor
        classes = torch.cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        if is_pointwise(predictor) and predictor.out_channels != 1:
            return conv1x1_channel(cast("nn.Conv2d", predictor), x, classes)
        logits = predictor(x)
        if logits.shape[1] == 1:
            return logits
        return logits[torch.arange(len(logits), device=logits.device), classes][:, None]


class AveragedMaskHeads(nn.ModuleList):
    """Mask heads of a cascade: trained one by one, averaged in inference.

    Called in inference as a single head is: ``pred_masks`` of the instances become the mean of what
    the heads predict, that is of their sigmoids, as in mmdet. So do ``mask_scores``, where the
    heads are :class:`~d2_seesaw.modeling.roi_heads.ScoredMaskHead`.
    """

    def forward(self, x: Any, instances: list[Instances]) -> list[Instances]:
        """Set what the heads predict for ``instances`` from ``x``, the features of their RoIs.

        Raises:
            RuntimeError: in training, where each head has RoIs and a loss of its own.
        """
        if self.training:
            raise RuntimeError("AveragedMaskHeads are trained one by one: call its items")
        predicted = [[i.get_fields().copy() for i in head(x, instances)] for head in self]
        for i, of_heads in zip(instances, zip(*predicted, strict=True), strict=True):
            for name in {"pred_masks", "mask_scores"} & of_heads[0].keys():
                i.set(name, sum(fields[name] for fields in of_heads) / len(self))
        return instances


class CarafeMaskHead(MaskHeadWithPredictor):
    """A mask head with CARAFE in place of the transposed convolution and its ReLU.

    The mask head of the CARAFE paper (https://arxiv.org/abs/1905.02188, section 4.2), and of the
    winner of the LVIS challenge 2020: convolutions, ``upsample``, predictor, with nothing between
    the last two. All else is as in :class:`MaskHeadWithPredictor`. Weights have the names of its
    own but for ``upsample.*``, which stands where ``deconv.*`` was.

    Args:
        input_shape: shape of one RoI's feature.
        conv_dims: channels of the convolutions and, last, of the up-sampling layer. As CARAFE keeps
            the number of channels, the last two are equal.
        upsample: a module that keeps the number of channels, or a function that builds one from it.
        head_options: the other arguments of :class:`MaskHeadWithPredictor`.

    Raises:
        ValueError: channels that do not fit.
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
                f"CARAFE keeps the {channels} channels it is given, but conv_dims wants "
                f"{upsampled} after it: make the last two of {conv_dims} equal"
            )
        if not isinstance(upsample, nn.Module):
            upsample = upsample(channels)
        given = getattr(upsample, "in_channels", channels)
        if given != channels:
            raise ValueError(f"upsample takes {given} channels, but is given {channels}")
        # The layers of a mask head run in the order in which they were added.
        predictor = self.predictor
        del self.deconv, self.deconv_relu, self.predictor
        self.upsample = upsample
        self.predictor = predictor
