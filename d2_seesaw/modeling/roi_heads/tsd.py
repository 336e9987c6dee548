"""Box head and predictor of TSD: separate features for classification and for localization.

Task-aware Spatial Disentanglement (Song et al., CVPR 2020, arXiv 2003.07540). From the pooled RoI,
the head predicts offsets of each bin for classification and of the box for localization, and pools
both. The sibling, a branch on the RoI without offsets, is trained beside them.

Shapes in this module:
    R: RoIs of all images
    L: logits per RoI
    C: foreground classes
    D: channels of a feature map
    B: bins per side of a RoI
    F: features of a branch
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor, nn

from d2_seesaw.layers import LayerFactory
from d2_seesaw.losses import ClassificationLoss, progressive_constraint
from d2_seesaw.modeling.roi_heads.fast_rcnn import LossDrivenOutputLayers, Predictions, targets_of

PoolRoIs = Callable[..., Tensor]
"""Pools the RoIs of a batch, with the ``offsets=`` of :class:`OffsetROIPooler`."""


class TSDFeatures(NamedTuple):
    """Features of R RoIs."""

    classification: Any
    """``(R, F)`` features of the moved bins; :class:`DualFeatures` from a dual head."""
    localization: Tensor
    """``(R, F)`` features of the moved boxes."""
    boxes: Tensor
    """``(R, 4)`` moved boxes, the reference of the box deltas."""
    sibling: Tensor | None
    """``(R, F)`` features of the original RoIs; None in inference, which does not need them."""


class TSDBoxHead(nn.Module):
    """Box head that pools with predicted offsets for classification and for localization.

    For one stage of a cascade with an :class:`OffsetROIPooler`, and with :class:`TSDOutputLayers`
    as box predictor. The branches ``classification``, ``localization`` and ``sibling`` are modules
    from pooled RoIs to features.

    Args:
        input_shape: shape of one pooled RoI, square.
        fc_dims: outputs of the linear layers of each branch.
        conv_dims: channels of the convolutions before them.
        conv_norm: normalization of the convolutions.
        offset_dim: width of the two hidden layers that predict offsets.
        offset_scale: an offset of 1 moves a bin or box by this fraction of the box's width or
            height.

    Raises:
        ValueError: the RoIs are not square.
    """

    needs_pooler = True
    """The ROI heads call it with a pooler instead of pooled features."""

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        fc_dims: list[int],
        conv_dims: list[int] | None = None,
        conv_norm: Any = "",
        offset_dim: int = 256,
        offset_scale: float = 0.1,
    ) -> None:
        super().__init__()
        bins, channels = input_shape.height, input_shape.channels
        if bins is None or channels is None or bins != input_shape.width:
            raise ValueError(
                f"input_shape must have channels and equal height and width, got {input_shape}"
            )
        self.bins = bins
        self.offset_scale = offset_scale
        self.shared_fc = nn.Sequential(nn.Linear(channels * bins**2, offset_dim), nn.ReLU())
        self.delta_c = _offsets(offset_dim, 2 * bins**2)
        self.delta_r = _offsets(offset_dim, 2)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)

        def branch() -> FastRCNNConvFCHead:
            return FastRCNNConvFCHead(
                input_shape, conv_dims=conv_dims or [], fc_dims=fc_dims, conv_norm=conv_norm
            )

        self.classification = branch()
        self.localization = branch()
        self.sibling = branch()

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of each branch's features."""
        return self.sibling.output_shape

    def forward(self, pool: PoolRoIs, box_lists: list[Boxes]) -> TSDFeatures:
        """Pool and encode RoIs.

        Args:
            pool: function that returns ``(R, D, B, B)`` features of the RoIs, moved by ``offsets``
                if given.
            box_lists: boxes of the RoIs per image.
        """
        x = pool()
        boxes = Boxes.cat(box_lists).tensor
        bin_offsets, box_offsets = self.offsets(x, boxes)
        return TSDFeatures(
            classification=self.classification(pool(offsets=bin_offsets)),
            localization=self.localization(pool(offsets=box_offsets)),
            boxes=boxes + box_offsets.repeat(1, 2),
            sibling=self.sibling(x) if self.training else None,
        )

    def offsets(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the offsets for classification and localization, in pixels and in float32.

        Args:
            x: ``(R, D, B, B)`` pooled RoIs.
            boxes: ``(R, 4)``.

        Returns:
            ``(R, 2, B, B)`` offsets of the bins and ``(R, 2)`` offsets of the boxes, x before y.
        """
        hidden = self.shared_fc(x.flatten(1))
        bin_offsets, box_offsets = self.delta_c(hidden), self.delta_r(hidden)
        unit = self.offset_scale * (boxes[:, 2:] - boxes[:, :2])
        bin_offsets = bin_offsets.to(unit.dtype).view(x.shape[0], 2, self.bins, self.bins)
        return bin_offsets * unit[:, :, None, None], box_offsets.to(unit.dtype) * unit


def _offsets(width: int, number: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, number))


class TSDPredictions(NamedTuple):
    """Outputs of :class:`TSDOutputLayers` for R RoIs."""

    logits: Tensor
    """``(R, L)``."""
    deltas: Tensor
    """``(R, 4)`` or ``(R, 4 C)`` box deltas relative to ``boxes``."""
    boxes: Tensor
    """``(R, 4)`` moved boxes of the RoIs."""
    sibling: Predictions | None
    """Logits and deltas of the original RoIs; None in inference."""


class TSDOutputLayers(LossDrivenOutputLayers):
    """Predictor of a :class:`TSDBoxHead`: scores, boxes and losses of one stage.

    In training, the sibling scores and regresses the original RoIs. It has its own classifier and
    classification loss and shares all other options. Its losses have the suffix ``_sibling``.
    ``loss_pc_cls`` and ``loss_pc_loc`` require the TSD branches to exceed the sibling: in the
    probability of the true class over all RoIs, and in the IoU with the true box over the
    foreground RoIs (:func:`progressive_constraint`).

    Box deltas are relative to the moved boxes. The regression targets therefore depend on the
    offsets and, as in the authors' code, the gradient of the box loss flows into them.

    Args:
        input_shape: shape of the features of each branch.
        cls_score: classifier of the TSD branch; see :class:`LossDrivenOutputLayers`.
        cls_loss: its loss.
        sibling_cls_score: classifier of the sibling.
        sibling_cls_loss: the sibling's loss; a separate object, because losses may hold counts.
        pc_cls: use ``loss_pc_cls``. It compares softmax probabilities of C + 1 classes, so it does
            not support losses with other logits, such as Seesaw Loss. The Seesaw Loss paper drops
            it (appendix D).
        pc_loc: use ``loss_pc_loc``.
        pc_margin: margin of both losses, in ``[0, 1]``.
        detach_targets: treat the moved boxes as constants in the regression targets. Offsets are
            then learned through the pooled features and ``loss_pc_loc``.
        box_options: other arguments of ``FastRCNNOutputLayers``; boxes are class-agnostic unless
            ``cls_agnostic_bbox_reg=False``. ``loss_weight`` may name the losses above.

    Raises:
        ValueError: both losses are the same object, ``pc_cls`` does not support a loss, or
            :class:`LossDrivenOutputLayers` raises it.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        cls_score: nn.Module | LayerFactory,
        cls_loss: ClassificationLoss,
        sibling_cls_score: nn.Module | LayerFactory,
        sibling_cls_loss: ClassificationLoss,
        pc_cls: bool = True,
        pc_loc: bool = True,
        pc_margin: float = 0.3,
        detach_targets: bool = False,
        **box_options: Any,
    ) -> None:
        box_options = {"cls_agnostic_bbox_reg": True, **box_options}
        super().__init__(input_shape, cls_score=cls_score, cls_loss=cls_loss, **box_options)
        _check_losses(cls_loss, sibling_cls_loss, pc_cls)
        self.sibling = LossDrivenOutputLayers(
            input_shape, cls_score=sibling_cls_score, cls_loss=sibling_cls_loss, **box_options
        )
        self.pc_cls = pc_cls
        self.pc_loc = pc_loc
        self.pc_margin = pc_margin
        self.detach_targets = detach_targets

    def forward(self, x: TSDFeatures) -> Any:
        """Compute :class:`TSDPredictions`; those of the sibling only in training."""
        return TSDPredictions(
            logits=self.cls_score(x.classification),
            deltas=self.bbox_pred(x.localization),
            boxes=x.boxes,
            sibling=None if x.sibling is None else self.sibling(x.sibling),
        )

    def predict_boxes(self, predictions: Any, proposals: list[Instances]) -> Any:
        """Return ``(Ri, 4)`` or ``(Ri, 4 C)`` boxes per image from :class:`TSDPredictions`."""
        moved = _moved(proposals, predictions.boxes)
        return super().predict_boxes(predictions[:2], moved)

    def losses(
        self, predictions: Any, proposals: list[Instances], *, log_as: str = "fast_rcnn"
    ) -> dict[str, Tensor]:
        """Compute the losses of the TSD branches and of the sibling, and those that compare them.

        Args:
            predictions: :class:`TSDPredictions` of training.
            proposals: as in :class:`LossDrivenOutputLayers`, with the original boxes of the RoIs.
            log_as: prefix of the accuracies in the event storage; the sibling's has ``_sibling``.

        Raises:
            ValueError: the predictions are from inference, without sibling.
        """
        if predictions.sibling is None:
            raise ValueError("losses need the sibling's predictions: the head was in eval mode")
        start = predictions.boxes.detach() if self.detach_targets else predictions.boxes
        losses = super().losses(predictions[:2], _moved(proposals, start), log_as=log_as)
        sibling_losses = self.sibling.losses(
            predictions.sibling, proposals, log_as=f"{log_as}_sibling"
        )
        losses |= {f"{name}_sibling": loss for name, loss in sibling_losses.items()}
        compared = self._compare(predictions, predictions.sibling, proposals)
        weights: dict[str, float] = self.loss_weight  # pyright: ignore[reportAssignmentType]
        return losses | {name: loss * weights.get(name, 1.0) for name, loss in compared.items()}

    def _compare(
        self, predictions: TSDPredictions, sibling: Predictions, proposals: list[Instances]
    ) -> dict[str, Tensor]:
        labels, boxes, matched = targets_of(proposals, predictions.logits)
        losses: dict[str, Tensor] = {}
        if self.pc_cls:
            losses["loss_pc_cls"] = progressive_constraint(
                _of_label(self.cls_loss.scores(predictions.logits), labels),
                _of_label(self.sibling.cls_loss.scores(sibling[0]), labels),
                margin=self.pc_margin,
            )
        if self.pc_loc:
            objects = ((labels >= 0) & (labels < self.num_classes)).nonzero().squeeze(1)
            starts_and_deltas = ((predictions.boxes, predictions.deltas), (boxes, sibling[1]))
            decoded = (
                self._decode(deltas[objects], start[objects], labels[objects])
                for start, deltas in starts_and_deltas
            )
            true = Boxes(matched[objects])
            achieved, reference = (matched_pairwise_iou(Boxes(b), true) for b in decoded)
            losses["loss_pc_loc"] = progressive_constraint(
                achieved, reference, margin=self.pc_margin
            )
        return losses

    def _decode(self, deltas: Tensor, start: Tensor, labels: Tensor) -> Tensor:
        """Decode the ``(R, 4)`` boxes of the RoIs' classes."""
        boxes = self.box2box_transform.apply_deltas(deltas, start)
        if boxes.shape[1] == 4:
            return boxes
        index = torch.arange(boxes.shape[0], device=boxes.device)
        return boxes.view(boxes.shape[0], self.num_classes, 4)[index, labels]


def _check_losses(
    cls_loss: ClassificationLoss, sibling_cls_loss: ClassificationLoss, pc_cls: bool
) -> None:
    if cls_loss is sibling_cls_loss:
        raise ValueError(
            f"cls_loss and sibling_cls_loss are the same {type(cls_loss).__name__}: it would count "
            "each batch twice, so pass two objects"
        )
    for name, loss in (("cls_loss", cls_loss), ("sibling_cls_loss", sibling_cls_loss)):
        if pc_cls and not _is_softmax_with_background(loss):
            raise ValueError(
                f"pc_cls=True compares softmax probabilities of {loss.num_classes + 1} classes, "
                f"but {name} is a {type(loss).__name__} with {loss.num_logits} logits: use "
                "pc_cls=False"
            )


def _is_softmax_with_background(loss: ClassificationLoss) -> bool:
    """Return whether the scores are a distribution over the classes and background."""
    if loss.num_logits != loss.num_classes + 1:
        return False
    with torch.no_grad():
        sums = loss.scores(torch.linspace(-2, 2, loss.num_logits)[None]).sum(dim=1)
    return bool((sums - 1).abs().max() < 1e-3)


def _moved(proposals: list[Instances], boxes: Tensor) -> list[Instances]:
    """Replace the boxes of proposals by the ``(R, 4)`` boxes of all images."""
    per_image = boxes.split([len(p) for p in proposals])
    return [
        Instances(p.image_size, **p.get_fields() | {"proposal_boxes": Boxes(b)})
        for p, b in zip(proposals, per_image, strict=True)
    ]


def _of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the scores of the true classes of the RoIs that are not ignored."""
    counted = (labels >= 0).nonzero().squeeze(1)
    return scores[counted, labels[counted]]
