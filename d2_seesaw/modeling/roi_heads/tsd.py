"""Box head and predictor of TSD: one feature to tell what a RoI is, another where its object is.

Task-aware Spatial Disentanglement (Song et al., CVPR 2020, arXiv 2003.07540). From the pooled RoI
the head predicts how each bin should be moved to classify it, and how the box should be moved to
locate the object, and pools both. A branch on the RoI as it is, the sibling, learns beside them.

Shapes in this module:
    R: RoIs of all images
    L: logits per RoI
    C: foreground classes
    D: channels of a feature map
    B: bins of a RoI per side
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
"""Pools the RoIs of a batch; ``offsets=`` are those of :class:`OffsetROIPooler`."""


class TSDFeatures(NamedTuple):
    """What the head makes of R RoIs."""

    classification: Any
    """``(R, F)`` features of the moved bins; of :class:`DualTSDBoxHead`, those of two branches."""
    localisation: Tensor
    """``(R, F)`` features of the moved boxes."""
    boxes: Tensor
    """``(R, 4)`` moved boxes, which are what the regression starts from."""
    sibling: Tensor | None
    """``(R, F)`` features of the RoIs as they are; None in inference, which has no use for them."""


class TSDBoxHead(nn.Module):
    """Predicts offsets for classification and for localisation, pools with both, and encodes.

    One stage of a cascade. Its heads have to pool with an :class:`OffsetROIPooler`, and its box
    predictor has to be :class:`TSDOutputLayers`. The branches are modules of their own, from pooled
    RoIs to features: ``classification``, ``localisation`` and ``sibling``.

    Args:
        input_shape: shape of one pooled RoI, square.
        fc_dims: outputs of the linear layers of each branch.
        conv_dims: channels of the convolutions before them.
        conv_norm: normalisation of the convolutions.
        offset_dim: width of the two hidden layers that predict offsets.
        offset_scale: an offset of 1 moves a bin or box by this fraction of the box's width or
            height.

    Raises:
        ValueError: RoIs that are not square.
    """

    needs_pooler = True
    """The heads call it with a pooler, rather than with what was pooled."""

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
                f"input_shape must have channels and as many bins in height as in width, got "
                f"{input_shape}"
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
        self.localisation = branch()
        self.sibling = branch()

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of each branch's features."""
        return self.sibling.output_shape

    def forward(self, pool: PoolRoIs, box_lists: list[Boxes]) -> TSDFeatures:
        """Features of RoIs.

        Args:
            pool: returns ``(R, D, B, B)`` features of the RoIs, moved by ``offsets`` if given.
            box_lists: per image, the boxes of its RoIs.
        """
        x = pool()
        boxes = Boxes.cat(box_lists).tensor
        of_bins, of_box = self.offsets(x, boxes)
        return TSDFeatures(
            classification=self.classification(pool(offsets=of_bins)),
            localisation=self.localisation(pool(offsets=of_box)),
            boxes=boxes + of_box.repeat(1, 2),
            sibling=self.sibling(x) if self.training else None,
        )

    def offsets(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Where to classify and where to locate, in pixels and in float32.

        Args:
            x: ``(R, D, B, B)`` pooled RoIs.
            boxes: ``(R, 4)``.

        Returns:
            ``(R, 2, B, B)`` offsets of the bins and ``(R, 2)`` offsets of the boxes, x before y.
        """
        hidden = self.shared_fc(x.flatten(1))
        of_bins, of_box = self.delta_c(hidden), self.delta_r(hidden)
        unit = self.offset_scale * (boxes[:, 2:] - boxes[:, :2])
        of_bins = of_bins.to(unit.dtype).view(len(x), 2, self.bins, self.bins)
        return of_bins * unit[:, :, None, None], of_box.to(unit.dtype) * unit


def _offsets(width: int, number: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, number))


class TSDPredictions(NamedTuple):
    """What :class:`TSDOutputLayers` says of R RoIs."""

    logits: Tensor
    """``(R, L)``."""
    deltas: Tensor
    """``(R, 4)`` or ``(R, 4 C)`` box deltas, from ``boxes``."""
    boxes: Tensor
    """``(R, 4)`` boxes the RoIs were moved to."""
    sibling: Predictions | None
    """Logits and deltas of the RoIs as they are; None in inference."""


class TSDOutputLayers(LossDrivenOutputLayers):
    """Predictor of a :class:`TSDBoxHead`: one stage's scores, boxes and losses.

    In training there is a sibling, which scores and regresses the RoIs as they are; it shares all
    options but its classifier and its classification loss. Its losses enter the dictionary with
    ``_sibling`` after their names. ``loss_pc_cls`` and ``loss_pc_loc`` ask the TSD branches to do
    better than it: to give the true class more probability, and to overlap more with the true box
    (:func:`progressive_constraint`), over all RoIs and over those of objects.

    The regression starts from the boxes that the head moved. So its targets depend on how it moved
    them and, as in the authors' code, the gradient of its loss flows there too.

    Args:
        input_shape: shape of the features of each branch.
        cls_score: classifier of the TSD branch; see :class:`LossDrivenOutputLayers`.
        cls_loss: its loss.
        sibling_cls_score: classifier of the sibling.
        sibling_cls_loss: the sibling's loss: another object, because losses may count.
        pc_cls: whether there is ``loss_pc_cls``. It compares softmax probabilities of C + 1
            classes, so losses with other logits do not have it, such as Seesaw Loss; the Seesaw
            Loss paper drops it (appendix D).
        pc_loc: whether there is ``loss_pc_loc``.
        pc_margin: what better means, in ``[0, 1]``.
        detach_targets: whether the moved boxes are constants in the targets of the regression. The
            head then learns to move them from what is pooled there and from ``loss_pc_loc``.
        box_options: the other arguments of ``FastRCNNOutputLayers``; boxes are class-agnostic
            unless ``cls_agnostic_bbox_reg=False``. ``loss_weight`` may name the losses above.

    Raises:
        ValueError: one loss object given twice, ``pc_cls`` with losses that do not have it, or what
            :class:`LossDrivenOutputLayers` refuses.
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
        """:class:`TSDPredictions` from features, of the sibling too where there are any for it."""
        return TSDPredictions(
            logits=self.cls_score(x.classification),
            deltas=self.bbox_pred(x.localisation),
            boxes=x.boxes,
            sibling=None if x.sibling is None else self.sibling(x.sibling),
        )

    def predict_boxes(self, predictions: Any, proposals: list[Instances]) -> Any:
        """Per image, ``(Ri, 4)`` or ``(Ri, 4 C)`` boxes from :class:`TSDPredictions`."""
        moved = _moved(proposals, predictions.boxes)
        return super().predict_boxes(predictions[:2], moved)

    def losses(
        self, predictions: Any, proposals: list[Instances], *, log_as: str = "fast_rcnn"
    ) -> dict[str, Tensor]:
        """Losses of the TSD branches, of the sibling, and of the two compared.

        Args:
            predictions: :class:`TSDPredictions` of training.
            proposals: as in :class:`LossDrivenOutputLayers`; their boxes are those of the RoIs as
                they are.
            log_as: what the accuracies are stored below, those of the sibling with ``_sibling``.

        Raises:
            ValueError: predictions of inference, which have no sibling.
        """
        if predictions.sibling is None:
            raise ValueError("losses need the sibling's predictions: the head was in eval mode")
        start = predictions.boxes.detach() if self.detach_targets else predictions.boxes
        losses = super().losses(predictions[:2], _moved(proposals, start), log_as=log_as)
        of_sibling = self.sibling.losses(predictions.sibling, proposals, log_as=f"{log_as}_sibling")
        losses |= {f"{name}_sibling": loss for name, loss in of_sibling.items()}
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
        """``(R, 4)`` boxes of the RoIs' classes."""
        boxes = self.box2box_transform.apply_deltas(deltas, start)
        if boxes.shape[1] == 4:
            return boxes
        index = torch.arange(len(boxes), device=boxes.device)
        return boxes.view(len(boxes), self.num_classes, 4)[index, labels]


def _check_losses(
    cls_loss: ClassificationLoss, sibling_cls_loss: ClassificationLoss, pc_cls: bool
) -> None:
    if cls_loss is sibling_cls_loss:
        raise ValueError(
            f"cls_loss and sibling_cls_loss are the same {type(cls_loss).__name__}: a loss that "
            "counts would count twice, so give two objects"
        )
    for name, loss in (("cls_loss", cls_loss), ("sibling_cls_loss", sibling_cls_loss)):
        if pc_cls and loss.num_logits != loss.num_classes + 1:
            raise ValueError(
                f"pc_cls=True compares softmax probabilities of {loss.num_classes + 1} classes, "
                f"but {name} is a {type(loss).__name__} of {loss.num_logits} logits: give "
                "pc_cls=False"
            )


def _moved(proposals: list[Instances], boxes: Tensor) -> list[Instances]:
    """The proposals with other boxes, ``(R, 4)`` of all images."""
    per_image = boxes.split([len(p) for p in proposals])
    return [
        Instances(p.image_size, **p.get_fields() | {"proposal_boxes": Boxes(b)})
        for p, b in zip(proposals, per_image, strict=True)
    ]


def _of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores of the true classes, of the RoIs that are not ignored."""
    counted = (labels >= 0).nonzero().squeeze(1)
    return scores[counted, labels[counted]]
