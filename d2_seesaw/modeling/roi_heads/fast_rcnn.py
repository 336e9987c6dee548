"""Box predictor that takes its classifier and classification loss as objects.

Shapes in this module:
    N: images in the batch
    R: RoIs of all images; Ri RoIs of image i
    C: foreground classes
    L: logits per RoI, as the loss defines
"""

from typing import Any

import torch
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from d2_seesaw.layers import LayerFactory
from d2_seesaw.losses import ClassificationLoss, VerifiedClassificationLoss
from d2_seesaw.losses._common import note_label_range

Predictions = tuple[Tensor, Tensor]
"""``(R, L)`` logits and ``(R, 4)`` or ``(R, 4 C)`` box deltas."""

_REFUSED = {
    "use_sigmoid_ce": "pass FederatedLoss(num_classes, num_sampled=None) as cls_loss instead",
    "use_fed_loss": "pass a FederatedLoss as cls_loss instead",
}


class LossDrivenOutputLayers(FastRCNNOutputLayers):
    """Fast R-CNN predictor for any classifier and any classification loss.

    The loss defines the number of logits, the scores and the losses. Boxes and inference are
    Detectron2's.

    Args:
        input_shape: shape of one RoI's feature.
        cls_score: a module with matching width, or a function that builds one from the numbers of
            inputs and outputs, such as ``normed_linear_classifier()``.
        cls_loss: classification loss; its losses are returned under their own names.
        box_options: other arguments of ``FastRCNNOutputLayers``. ``loss_weight`` scales losses by
            name; its ``loss_cls`` scales all losses of ``cls_loss`` that it does not name.

    Attributes:
        calibration: layer that calibrates the scores, see
            :func:`~d2_seesaw.inference.attach_calibration`; None by default.

    Raises:
        ValueError: a sigmoid or federated flag is set, or classifier, loss and ``num_classes`` do
            not match.
    """

    calibration: nn.Module | None

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        cls_score: nn.Module | LayerFactory,
        cls_loss: ClassificationLoss,
        **box_options: Any,
    ) -> None:
        for flag, reason in _REFUSED.items():
            if box_options.pop(flag, False):
                raise ValueError(f"LossDrivenOutputLayers does not support {flag}=True: {reason}")
        num_classes = box_options.setdefault("num_classes", cls_loss.num_classes)
        if num_classes != cls_loss.num_classes:
            raise ValueError(
                f"num_classes is {num_classes} in the box predictor and "
                f"{cls_loss.num_classes} in its cls_loss: they must be equal"
            )
        super().__init__(input_shape, **box_options)
        # Replaces the (C + 1)-way linear layer of the base class.
        self.cls_score = classifier_for(cls_loss, cls_score, self.bbox_pred.in_features)
        self.cls_loss = cls_loss
        self.calibration = None

    def losses(
        self,
        predictions: Predictions,
        proposals: list[Instances],
        *,
        log_as: str = "fast_rcnn",
    ) -> dict[str, Tensor]:
        """Compute the classification losses, under the loss's own names, and ``loss_box_reg``.

        Accuracies are written to the event storage as in Detectron2. They are computed from the
        scores, including background, over the RoIs that are not ignored.

        Args:
            predictions: output of ``forward`` for all RoIs.
            proposals: per image, with ``proposal_boxes``, ``gt_classes`` (``(Ri,)``, C for
                background, -1 to ignore) and, if there are objects, ``gt_boxes``.
            log_as: prefix of the accuracies in the event storage.
        """
        logits, deltas = predictions
        labels, boxes, matched = targets_of(proposals, logits)
        losses = self._classification_losses(self.cls_loss, logits, labels, proposals, log_as)
        name = "loss_box_reg"
        box_loss = self.box_reg_loss(boxes, matched, deltas, labels) * self._weight(name)
        return losses | {name: box_loss}

    def _classification_losses(
        self,
        cls_loss: ClassificationLoss,
        logits: Tensor,
        labels: Tensor,
        proposals: list[Instances],
        log_as: str,
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            _log_accuracies(cls_loss.scores(logits), labels, log_as)
        if isinstance(cls_loss, VerifiedClassificationLoss):
            verified = verified_classes_of(proposals, cls_loss.num_classes, logits.device)
            losses = cls_loss(logits, labels, verified_classes=verified)
        else:
            losses = cls_loss(logits, labels)
        return {name: loss * self._weight(name) for name, loss in losses.items()}

    def _weight(self, name: str) -> float:
        general = "loss_box_reg" if name == "loss_box_reg" else "loss_cls"
        weights: dict[str, float] = self.loss_weight  # pyright: ignore[reportAssignmentType]
        return weights.get(name, weights.get(general, 1.0))

    def predict_probs(self, predictions: Predictions, proposals: list[Instances]) -> list[Tensor]:
        """Return ``(Ri, C + 1)`` probabilities per image, background last; calibrated if set."""
        return calibrated(self, self.uncalibrated_probs(predictions, proposals))

    def uncalibrated_probs(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> list[Tensor]:
        """Return the ``(Ri, C + 1)`` probabilities of the loss, without calibration."""
        return list(self.cls_loss.scores(predictions[0]).split([len(p) for p in proposals]))

    def scoring_classifiers(self) -> list[tuple[nn.Module, ClassificationLoss]]:
        """Return the classifiers that the scores come from, with their losses."""
        return [(self.cls_score, self.cls_loss)]


def _log_accuracies(scores: Tensor, labels: Tensor, log_as: str) -> None:
    """Write Detectron2's accuracies of the RoIs that are not ignored to the event storage.

    Detectron2 waits for a GPU six times to do so. Here the numbers are read at once, along with the
    range of the labels, which the loss then need not read.

    Args:
        scores: ``(R, C + 1)``, background last.
        labels: ``(R,)`` classes, C for background, negative to ignore.
        log_as: prefix of the names.
    """
    if labels.numel() == 0:
        return
    predicted, background = scores.argmax(dim=1), scores.shape[1] - 1
    is_object = (labels >= 0) & (labels < background)
    is_hit = predicted == labels
    of_objects = (is_object, is_object & is_hit, is_object & (predicted == background))
    counts = [mask.sum() for mask in (labels >= 0, is_hit, *of_objects)]
    smallest, largest, counted, hits, objects, found, missed = torch.stack(
        [*labels.long().aminmax(), *counts]
    ).tolist()
    note_label_range(labels, smallest, largest)
    storage = get_event_storage()
    if counted > 0:
        storage.put_scalar(f"{log_as}/cls_accuracy", hits / counted)
    if objects > 0:
        storage.put_scalar(f"{log_as}/fg_cls_accuracy", found / objects)
        storage.put_scalar(f"{log_as}/false_negative", missed / objects)


def calibrated(predictor: nn.Module, scores: list[Tensor]) -> list[Tensor]:
    """Apply the calibration of a predictor, if it has one, to ``(Ri, C + 1)`` scores per image."""
    calibration = getattr(predictor, "calibration", None)
    return scores if calibration is None else [calibration(image) for image in scores]


def uncalibrated_probs(
    predictor: FastRCNNOutputLayers, predictions: Predictions, proposals: list[Instances]
) -> list[Tensor]:
    """Return ``(Ri, C + 1)`` scores per image without calibration, of any box predictor."""
    if isinstance(predictor, LossDrivenOutputLayers):
        return predictor.uncalibrated_probs(predictions, proposals)
    return list(predictor.predict_probs(predictions, proposals))


def classifier_for(
    loss: ClassificationLoss, classifier: nn.Module | LayerFactory, in_features: int
) -> nn.Module:
    """Return the classifier for ``loss``; build it if ``classifier`` is a function.

    Raises:
        ValueError: a module has another number of inputs or outputs.
    """
    if not isinstance(classifier, nn.Module):
        classifier = classifier(in_features, loss.num_logits)
    given = [getattr(classifier, name, None) for name in ("in_features", "out_features")]
    needed = [in_features, loss.num_logits]
    if any(g is not None and g != n for g, n in zip(given, needed, strict=True)):
        raise ValueError(
            f"cls_score maps {given[0]} features to {given[1]} logits, but the RoI feature has "
            f"{in_features} and {type(loss).__name__} for {loss.num_classes} classes needs "
            f"{loss.num_logits} logits"
        )
    return classifier


def targets_of(proposals: list[Instances], logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels ``(R,)``, proposal boxes ``(R, 4)`` and their target boxes ``(R, 4)``."""
    if not proposals:
        no_boxes = logits.new_zeros((0, 4))
        return torch.zeros(0, dtype=torch.int64, device=logits.device), no_boxes, no_boxes
    labels = cat([p.gt_classes for p in proposals])
    boxes = Boxes.cat([p.proposal_boxes for p in proposals]).tensor
    # An image without objects has no gt_boxes. Its proposals are background, whose targets are
    # never read.
    matched = [p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes for p in proposals]
    return labels, boxes, Boxes.cat(matched).tensor


class FederatedImageSize(tuple[int, int]):
    """Height and width of an image of a federated dataset, with the classes verified in it.

    Detectron2 gives the size of an image to all RoIs that are made of it: to proposals, sampled
    RoIs, and those of each stage of a cascade, whether the image has objects or not. Fields of
    ``Instances`` have one row per RoI and are dropped on the way.
    """

    verified_classes: Tensor
    """``(C,)`` booleans: the presence or absence of the class was verified in the image."""


def verified_classes_of(
    proposals: list[Instances], num_classes: int, device: torch.device
) -> Tensor:
    """Return ``(R, C)`` booleans: the classes that were verified in the image of each RoI.

    Raises:
        ValueError: the size of an image is not a :class:`FederatedImageSize`.
    """
    if not proposals:
        return torch.zeros((0, num_classes), dtype=torch.bool, device=device)
    sizes: list[Any] = [p.image_size for p in proposals]
    if not all(isinstance(size, FederatedImageSize) for size in sizes):
        raise ValueError(
            "the classification loss needs the classes that were verified in each image: use "
            "d2_seesaw.modeling.FederatedRCNN as the model, with a proposal generator"
        )
    rows = [s.verified_classes.expand(len(p), -1) for s, p in zip(sizes, proposals, strict=True)]
    return torch.cat(rows)


class TwoSidedBox2BoxTransform(Box2BoxTransform):
    """Detectron2's box deltas with the change of size limited in both directions.

    Detectron2 limits growth to a factor of 1000 / 16. mmdet limits shrinking, too
    (``DeltaXYWHBBoxCoder``, ``wh_ratio_clip``). For weights that were trained with mmdet.

    Args:
        weights: factors of dx, dy, dw and dh: the inverse of mmdet's ``target_stds``.
        scale_clamp: limit of the absolute values of dw and dh, after division by the weights.
    """

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply ``(R, 4 k)`` deltas to ``(R, 4)`` boxes; return ``(R, 4 k)`` boxes."""
        deltas = deltas.float()
        smallest = deltas.new_full((4,), -torch.inf)
        for side in (2, 3):  # one by one: a new tensor of both would wait for a GPU
            smallest[side] = -self.scale_clamp * self.weights[side]
        limited = torch.maximum(deltas.view(deltas.shape[0], deltas.shape[1] // 4, 4), smallest)
        return super().apply_deltas(limited.view_as(deltas), boxes)
