"""A second classification branch beside a trained one: the dual head of the LVIS 2020 entry.

Appendix D of the Seesaw Loss paper (arXiv 2008.10032), after SimCal (arXiv 2007.11978): the trained
detector is frozen, one new classification branch per stage is trained with repeat factor sampling,
and the scores of the old and the new branch are averaged. The parts here have both branches;
:class:`~d2_seesaw.modeling.DualHeadRCNN` freezes and trains. What is new is a submodule ``new`` of
its part; everything else has the names it has without it, so that checkpoints fit.

Shapes in this module:
    R: RoIs of all images
    C: foreground classes
    F: features of a branch
    L, L': logits per RoI of the old and of the new branch
"""

from typing import Any, NamedTuple

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
    """What two branches make of R RoIs."""

    old: Tensor
    """``(R, F)``."""
    new: Tensor
    """``(R, F)``."""


class DualBoxHead(FastRCNNConvFCHead):
    """Detectron2's box head with its layers a second time, ``new``, on the same pooled RoIs.

    The arguments are those of ``FastRCNNConvFCHead``. Its box predictor has to be
    :class:`DualOutputLayers`.
    """

    def __init__(self, input_shape: ShapeSpec, **options: Any) -> None:
        super().__init__(input_shape, **options)
        self.new = FastRCNNConvFCHead(input_shape, **options)

    def forward(self, x: Tensor) -> Any:
        """:class:`DualFeatures` of pooled RoIs."""
        *layers, new = self
        old = x
        for layer in layers:
            old = layer(old)
        return DualFeatures(old, new(x))

    def start_new(self, *, copy_weights: bool, copy_counts: bool) -> None:
        """Give the new layers the values of the old ones, if ``copy_weights``."""
        del copy_counts  # there are none here
        if copy_weights:
            *layers, _ = self
            for layer, twin in zip(layers, self.new, strict=True):
                twin.load_state_dict(layer.state_dict())


class DualTSDBoxHead(TSDBoxHead):
    """:class:`TSDBoxHead` with a second classification branch on the same moved bins.

    That is its ``classification.new``. The arguments are those of :class:`TSDBoxHead`; its box
    predictor has to be :class:`DualTSDOutputLayers`.
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
    """The end of a classification branch."""

    def __init__(self, cls_score: nn.Module, cls_loss: ClassificationLoss) -> None:
        super().__init__()
        self.cls_score = cls_score
        self.cls_loss = cls_loss


class DualOutputLayers(LossDrivenOutputLayers):
    """Box predictor with two classifiers, whose scores are averaged; only the new one learns.

    Its logits are those of both branches, the old one's first. Scores are the mean of what the two
    losses make of them, activated one by one (``0.5 * (old + new)``). A cascade that fuses logits
    over its stages averages each branch's logits first, so also there the mean of the branches is
    one of probabilities, and a new branch that equals the old one changes nothing. Where boxes are
    class-specific, it is the averaged scores that choose those which go on to the next stage.

    Losses are those of ``new_cls_loss`` alone, with ``_new`` after their names; none of boxes.

    With a :class:`DualBoxHead` the new branch has layers of its own before its classifier; with
    any other box head it is a new classifier on the old features, which is cheaper and can do less.

    Args:
        input_shape: shape of one RoI's feature, of each branch.
        cls_score: the old classifier; see :class:`LossDrivenOutputLayers`.
        cls_loss: the old branch's loss, from here on only asked for scores.
        new_cls_score: the new classifier.
        new_cls_loss: its loss: another object, because losses may count.
        options: the other arguments of the base class.

    Raises:
        ValueError: one loss object given twice, losses of different numbers of classes, or what the
            base class refuses.
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
                "starts to count anew, so give two objects"
            )
        if new_cls_loss.num_classes != cls_loss.num_classes:
            raise ValueError(
                f"num_classes of new_cls_loss is {new_cls_loss.num_classes}, that of cls_loss is "
                f"{cls_loss.num_classes}: they must be equal"
            )
        classifier = classifier_for(new_cls_loss, new_cls_score, self.bbox_pred.in_features)
        self.new = ClassifierAndLoss(classifier, new_cls_loss)

    def forward(self, x: Any) -> Any:
        """``(R, L + L')`` logits and the box deltas, from :class:`DualFeatures` or ``(R, F)``."""
        of_old, of_new = _of_branches(x)
        logits, deltas = super().forward(of_old)
        return self._with_new(logits, of_new), deltas

    def _with_new(self, logits: Tensor, features: Tensor) -> Tensor:
        return torch.cat([logits, self.new.cls_score(features.flatten(1))], dim=1)

    def _of_old_and_new(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        widths = [self.cls_loss.num_logits, self.new.cls_loss.num_logits]
        of_old, of_new = logits.split(widths, dim=1)
        return of_old, of_new

    def predict_probs(self, predictions: Predictions, proposals: list[Instances]) -> list[Tensor]:
        """Per image, ``(Ri, C + 1)`` mean probabilities of the branches, background last."""
        of_old, of_new = self._of_old_and_new(predictions[0])
        scores = (self.cls_loss.scores(of_old) + self.new.cls_loss.scores(of_new)) / 2
        return list(scores.split([len(p) for p in proposals]))

    def losses(
        self, predictions: Any, proposals: list[Instances], *, log_as: str = "fast_rcnn"
    ) -> dict[str, Tensor]:
        """The new branch's classification losses.

        Args:
            predictions: what ``forward`` returned for all RoIs.
            proposals: as in :class:`LossDrivenOutputLayers`.
            log_as: what the new branch's accuracies are stored below, with ``_new``.
        """
        labels, _, _ = targets_of(proposals, predictions[0])
        _, of_new = self._of_old_and_new(predictions[0])
        losses = self._classification_losses(self.new.cls_loss, of_new, labels, f"{log_as}_new")
        return {f"{name}_new": loss for name, loss in losses.items()}

    def start_new(self, *, copy_weights: bool, copy_counts: bool) -> None:
        """Give the new branch's classifier and its loss's state the values of the old ones.

        Raises:
            ValueError: a classifier or loss of another kind.
        """
        if copy_weights:
            _copy("cls_score", self.cls_score, self.new.cls_score)
        if copy_counts:
            _copy("cls_loss", self.cls_loss, self.new.cls_loss)


class DualTSDOutputLayers(DualOutputLayers, TSDOutputLayers):
    """:class:`TSDOutputLayers` with two classifiers, as :class:`DualOutputLayers`.

    The arguments are those of both. The sibling stays what it was, without any use.
    """

    def forward(self, x: TSDFeatures) -> Any:
        """:class:`TSDPredictions` with ``(R, L + L')`` logits."""
        of_old, of_new = _of_branches(x.classification)
        predictions = TSDOutputLayers.forward(self, x._replace(classification=of_old))
        return predictions._replace(logits=self._with_new(predictions.logits, of_new))


def _of_branches(x: Any) -> tuple[Tensor, Tensor]:
    return (x.old, x.new) if isinstance(x, DualFeatures) else (x, x)


def _copy(name: str, old: Any, new: Any) -> None:
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"new_{name} cannot start as a copy of {name}: a {type(new).__name__} with "
            f"{_listed(shapes[1])} is not a {type(old).__name__} with {_listed(shapes[0])}. Give "
            "equal ones, or init='random' and fresh_counts=True"
        )
    new.load_state_dict(old.state_dict())


def _listed(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{key} {tuple(shape)}" for key, shape in shapes.items()) or "no state"
