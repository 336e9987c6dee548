"""Dual head of the LVIS 2020 entry: a second classification branch beside a trained one.

Appendix D of the Seesaw Loss paper (arXiv 2008.10032), after SimCal (arXiv 2007.11978): the trained
detector is frozen, one new classification branch per stage is trained with repeat factor sampling,
and the scores of the old and the new branch are averaged. The modules here have both branches;
:class:`~d2_seesaw.modeling.DualHeadRCNN` freezes and trains them. The new layers are in submodules
named ``new``. All other names are unchanged, so that checkpoints can be loaded.

Shapes in this module:
    R: RoIs of all images
    C: foreground classes
    F: features of a branch
    L, L': logits per RoI of the old and of the new branch
"""

from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_seesaw.layers import LayerFactory
from d2_seesaw.losses import ClassificationLoss
from d2_seesaw.modeling.roi_heads.fast_rcnn import (
    LossDrivenOutputLayers,
    Predictions,
    classifier_for,
    targets_of,
)
from d2_seesaw.modeling.roi_heads.tsd import TSDBoxHead, TSDFeatures, TSDOutputLayers


class DualFeatures(NamedTuple):
    """Features of R RoIs from two branches."""

    old: Tensor
    """``(R, F)``."""
    new: Tensor
    """``(R, F)``."""


class DualBoxHead(FastRCNNConvFCHead):
    """Detectron2's box head with a second copy of its layers, ``new``, on the same pooled RoIs.

    The arguments are those of ``FastRCNNConvFCHead``. Its box predictor must be
    :class:`DualOutputLayers`.
    """

    def __init__(self, input_shape: ShapeSpec, **options: Any) -> None:
        super().__init__(input_shape, **options)
        self.new = FastRCNNConvFCHead(input_shape, **options)

    def forward(self, x: Tensor) -> Any:
        """Compute :class:`DualFeatures` of pooled RoIs."""
        *layers, new = self
        old = x
        for layer in layers:
            old = layer(old)
        return DualFeatures(old, new(x))

    def start_new(self, *, copy_weights: bool, copy_counts: bool) -> None:
        """Copy the old layers' weights to the new ones if ``copy_weights``."""
        del copy_counts  # box heads have no counts
        if copy_weights:
            *layers, _ = self
            for layer, twin in zip(layers, self.new, strict=True):
                twin.load_state_dict(layer.state_dict())


class DualTSDBoxHead(TSDBoxHead):
    """:class:`TSDBoxHead` with a second classification branch on the same moved bins.

    The second branch is ``classification.new``. The arguments are those of :class:`TSDBoxHead`. Its
    box predictor must be :class:`DualTSDOutputLayers`.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        fc_dims: list[int],
        conv_dims: list[int] | None = None,
        conv_norm: Any = "",
        **offset_options: Any,
    ) -> None:
        layers: dict[str, Any] = {"fc_dims": fc_dims, "conv_dims": conv_dims or []}
        layers["conv_norm"] = conv_norm
        super().__init__(input_shape, **layers, **offset_options)
        self.classification = DualBoxHead(input_shape, **layers)


class ClassifierAndLoss(nn.Module):
    """Classifier and loss of a classification branch."""

    class_outputs: ClassVar = {"cls_score": 0}
    """Number of outputs for each class, by the names of layers; the loss adds others to 0."""

    def __init__(self, cls_score: nn.Module, cls_loss: ClassificationLoss) -> None:
        super().__init__()
        self.cls_score = cls_score
        self.cls_loss = cls_loss


class DualOutputLayers(LossDrivenOutputLayers):
    """Box predictor with two classifiers whose scores are averaged; only the new one is trained.

    The logits are those of both branches, old ones first. Each loss converts its logits to scores,
    and the scores are averaged (``0.5 * (old + new)``). A cascade that fuses logits over its stages
    averages the logits of each branch first, so the branches are still averaged as probabilities,
    and a new branch that equals the old one changes nothing. If boxes are class-specific, the
    averaged scores select the boxes of the next stage.

    The only losses are those of ``new_cls_loss``, with the suffix ``_new``.

    With a :class:`DualBoxHead`, the new branch has its own layers before the classifier. With any
    other box head it is a new classifier on the old features, which is cheaper but less expressive.

    Args:
        input_shape: shape of one RoI's feature, for each branch.
        cls_score: the old classifier; see :class:`LossDrivenOutputLayers`.
        cls_loss: the old branch's loss, used for scores only.
        new_cls_score: the new classifier.
        new_cls_loss: its loss; a separate object, because losses may hold counts.
        options: other arguments of the base class.

    Raises:
        ValueError: both losses are the same object, the losses differ in the number of classes, or
            the base class raises it.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        cls_score: nn.Module | LayerFactory,
        cls_loss: ClassificationLoss,
        new_cls_score: nn.Module | LayerFactory,
        new_cls_loss: ClassificationLoss,
        **options: Any,
    ) -> None:
        super().__init__(input_shape, cls_score=cls_score, cls_loss=cls_loss, **options)
        if new_cls_loss is cls_loss:
            raise ValueError(
                f"cls_loss and new_cls_loss are the same {type(cls_loss).__name__}: the new branch "
                "needs its own counts, so pass two objects"
            )
        if new_cls_loss.num_classes != cls_loss.num_classes:
            raise ValueError(
                f"num_classes is {new_cls_loss.num_classes} in new_cls_loss and "
                f"{cls_loss.num_classes} in cls_loss: they must be equal"
            )
        classifier = classifier_for(new_cls_loss, new_cls_score, self.bbox_pred.in_features)
        self.new = ClassifierAndLoss(classifier, new_cls_loss)

    def forward(self, x: Any) -> Any:
        """Map :class:`DualFeatures` or ``(R, F)`` to ``(R, L + L')`` logits and box deltas."""
        old, new = _split_branches(x)
        logits, deltas = super().forward(old)
        return self._with_new(logits, new), deltas

    def _with_new(self, logits: Tensor, features: Tensor) -> Tensor:
        return torch.cat([logits, self.new.cls_score(features.flatten(1))], dim=1)

    def _split_logits(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        widths = [self.cls_loss.num_logits, self.new.cls_loss.num_logits]
        old_logits, new_logits = logits.split(widths, dim=1)
        return old_logits, new_logits

    def uncalibrated_probs(
        self, predictions: Predictions, proposals: list[Instances]
    ) -> list[Tensor]:
        """Return ``(Ri, C + 1)`` mean probabilities of the branches per image, background last."""
        old_logits, new_logits = self._split_logits(predictions[0])
        scores = (self.cls_loss.scores(old_logits) + self.new.cls_loss.scores(new_logits)) / 2
        return list(scores.split([len(p) for p in proposals]))

    def scoring_classifiers(self) -> list[tuple[nn.Module, ClassificationLoss]]:
        """Return both classifiers with their losses."""
        new: Any = self.new
        return [*super().scoring_classifiers(), (new.cls_score, new.cls_loss)]

    def losses(
        self, predictions: Any, proposals: list[Instances], *, log_as: str = "fast_rcnn"
    ) -> dict[str, Tensor]:
        """Compute the classification losses of the new branch.

        Args:
            predictions: output of ``forward`` for all RoIs.
            proposals: as in :class:`LossDrivenOutputLayers`.
            log_as: prefix of the accuracies in the event storage; ``_new`` is appended.
        """
        labels, _, _ = targets_of(proposals, predictions[0])
        _, new_logits = self._split_logits(predictions[0])
        losses = self._classification_losses(
            self.new.cls_loss, new_logits, labels, proposals, f"{log_as}_new"
        )
        return {f"{name}_new": loss for name, loss in losses.items()}

    def start_new(self, *, copy_weights: bool, copy_counts: bool) -> None:
        """Copy the old classifier's weights and the old loss's counts to the new branch.

        Raises:
            ValueError: the new classifier or loss differs in kind.
        """
        if copy_weights:
            _copy("cls_score", self.cls_score, self.new.cls_score)
        if copy_counts:
            _copy("cls_loss", self.cls_loss, self.new.cls_loss)


class DualTSDOutputLayers(DualOutputLayers, TSDOutputLayers):
    """:class:`TSDOutputLayers` with two classifiers, as :class:`DualOutputLayers`.

    The arguments are those of both. The sibling is kept but not used.
    """

    def forward(self, x: TSDFeatures) -> Any:
        """Compute :class:`TSDPredictions` with ``(R, L + L')`` logits."""
        old, new = _split_branches(x.classification)
        predictions = TSDOutputLayers.forward(self, x._replace(classification=old))
        return predictions._replace(logits=self._with_new(predictions.logits, new))


def _split_branches(x: Any) -> tuple[Tensor, Tensor]:
    return (x.old, x.new) if isinstance(x, DualFeatures) else (x, x)


def _copy(name: str, old: Any, new: Any) -> None:
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"new_{name} cannot start as a copy of {name}: a {type(new).__name__} with "
            f"{_listed(shapes[1])} differs from a {type(old).__name__} with {_listed(shapes[0])}. "
            "Use equal ones, or init='random' and fresh_counts=True"
        )
    new.load_state_dict(old.state_dict())


def _listed(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{key} {tuple(shape)}" for key, shape in shapes.items()) or "no state"
