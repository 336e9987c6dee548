"""Second training phases: some modules of a trained model are trained, all others are frozen.

Decoupled training (Kang et al., "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020) trains a model, then its classifier alone, usually with another sampling.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.tsd import TSDOutputLayers

DECOUPLED_INITS = ("random", "keep", "scale")


class SecondPhase(nn.Module):
    """Base class of models of which only some modules are trained.

    Parameters of all other modules require no gradients, so the optimizer neither updates nor
    decays them. These modules stay in evaluation mode, so that batch statistics and class counts do
    not change.
    """

    def trained_modules(self) -> Sequence[nn.Module]:
        """Return the modules that are trained."""
        raise NotImplementedError

    def freeze_others(self) -> None:
        """Freeze everything but the trained modules. Constructors call this at their end."""
        self.requires_grad_(False)
        for module in self.trained_modules():
            module.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> Any:
        """Set the mode of the trained modules; other modules stay in evaluation mode."""
        super().train(False)
        self.training = mode
        for module in self.trained_modules():
            module.train(mode)
        return self


class SecondPhaseRCNN(SecondPhase, GeneralizedRCNN):
    """``GeneralizedRCNN`` of which only modules of the box predictors and box heads are trained.

    RoIs are sampled as in training. The only losses are those that depend on a trained parameter,
    and modules that only other losses need do not run.
    """

    def train(self, mode: bool = True) -> Any:
        """Set the mode of the trained modules and of the sampling of RoIs."""
        super().train(mode)
        self.roi_heads.training = mode
        return self

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return losses of the trained modules in training, detections in inference.

        Args:
            batched_inputs: as for ``GeneralizedRCNN``; in training with ``instances``.

        Raises:
            ValueError: training inputs lack ``instances``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = [self._boxes_and_classes(given) for given in batched_inputs]
        with torch.no_grad(), _as_many_proposals_as_in_training(self.proposal_generator):
            images = self.preprocess_image(batched_inputs)
            features = self.backbone(images.tensor)
            proposals, _ = self.proposal_generator(images, features, None)
        losses = self._box_losses(features, proposals, targets)
        return {name: loss for name, loss in losses.items() if loss.requires_grad}

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        heads: Any = self.roi_heads
        sampled = heads.label_and_sample_proposals(proposals, targets)
        # A cascade also matches the RoIs of its later stages.
        more = [targets] if isinstance(heads, CascadeROIHeads) else []
        return heads._forward_box(features, sampled, *more)

    def _boxes_and_classes(self, given: dict[str, Any]) -> Instances:
        # Without masks, which sampling would copy for each RoI.
        if "instances" not in given:
            raise ValueError("training needs targets: the inputs have no 'instances'")
        objects = given["instances"].to(self.device)
        return Instances(
            objects.image_size, gt_boxes=objects.gt_boxes, gt_classes=objects.gt_classes
        )


@contextmanager
def _as_many_proposals_as_in_training(generator: Any) -> Iterator[None]:
    """Let an RPN in evaluation mode keep as many proposals as in training."""
    limits = {
        name: getattr(generator, name)
        for name in ("pre_nms_topk", "post_nms_topk")
        if hasattr(generator, name)
    }
    try:
        for name, limit in limits.items():
            setattr(generator, name, {False: limit[True]})
        yield
    finally:
        for name, limit in limits.items():
            setattr(generator, name, limit)


class ClassScales(nn.Module):
    """One learned factor on each logit, 1 at the start (learnable weight scaling, LWS)."""

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(num_logits))


def _scale_logits(classifier: Any, inputs: Any, logits: Tensor) -> Tensor:
    return logits * classifier.class_scales.scales


class DecoupledTraining(SecondPhase):
    """Training of the classifiers of a trained model; see :class:`DecoupledRCNN`.

    A subclass names its classifiers and calls :meth:`start_decoupled` at the end of its
    constructor.
    """

    def classifiers(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return each classifier and its loss."""
        raise NotImplementedError

    def start_decoupled(self, init: str, fresh_counts: bool) -> None:
        """Add what the second phase needs, and freeze all else.

        Raises:
            ValueError: ``init`` is unknown.
        """
        if init not in DECOUPLED_INITS:
            raise ValueError(f"init must be one of {list(DECOUPLED_INITS)}, got {init!r}")
        self.init = init
        self.fresh_counts = fresh_counts
        # Tells a checkpoint of this phase from one of the first.
        self.register_buffer("second_phase", torch.ones((), dtype=torch.int64))
        if init == "scale":
            for classifier, loss in self.classifiers():
                num_logits: Any = getattr(loss, "num_logits", None) or classifier.out_features
                classifier.class_scales = ClassScales(num_logits)
                classifier.register_forward_hook(_scale_logits)
        self.freeze_others()

    def trained_modules(self) -> list[nn.Module]:
        """Return the classifiers, or their scales, and the losses."""
        parts = self.classifiers()
        learned: Any = [c.class_scales if self.init == "scale" else c for c, _ in parts]
        return [*learned, *(loss for _, loss in parts)]

    @property
    def added_keys(self) -> frozenset[str]:
        """State dict keys that the model of the first phase does not have."""
        added = {key for key in self.state_dict() if ".class_scales." in key}
        return frozenset(added | {"second_phase"})

    @property
    def replaced_keys(self) -> frozenset[str]:
        """State dict keys that are not taken from a checkpoint of the first phase."""
        return frozenset(k for k in self.state_dict() if k.startswith(self._replaced()))

    def _replaced(self) -> tuple[str, ...]:
        names = {id(module): name for name, module in self.named_modules()}
        found = []
        for classifier, loss in self.classifiers():
            found += [names[id(classifier)]] if self.init == "random" else []
            # Another classifier may belong to another loss.
            found += [names[id(loss)]] if self.fresh_counts or self.init == "random" else []
        return tuple(f"{name}." for name in found)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict. What is to start anew is not taken from one of the first phase."""
        if self.added_keys & state_dict.keys():
            return super().load_state_dict(state_dict, strict, assign)
        own, replaced = self.state_dict(), self._replaced()
        kept = {key: value for key, value in state_dict.items() if not key.startswith(replaced)}
        started = {key: own[key] for key in self.replaced_keys}
        return super().load_state_dict({**kept, **started}, strict, assign)


class DecoupledRCNN(DecoupledTraining, SecondPhaseRCNN):
    """``GeneralizedRCNN`` that trains only the last layer of its classification branches.

    Training starts from a checkpoint of the same model without this phase, for any classification
    loss and any number of stages. :class:`~d2_seesaw.checkpoint.StrictCheckpointer` accepts a
    checkpoint that lacks the ``added_keys``, and that has no, or other, ``replaced_keys``.
    Evaluation and resuming need all keys. Training does not start from a checkpoint that is already
    of the second phase.

    The box predictors are :class:`LossDrivenOutputLayers` or subclasses. Their boxes, and all other
    parts, remain those of the first phase, bit for bit.

    Args:
        init: ``"random"`` trains new classifiers (classifier re-training, cRT), which may be of
            another kind and have another loss than in the first phase. ``"keep"`` continues with
            the classifiers of the first phase. ``"scale"`` keeps them frozen and learns one factor
            on each logit (learnable weight scaling, LWS).
        fresh_counts: start the state of the losses, such as the class counts of Seesaw Loss, at
            zero. With ``"random"`` it always does.
        parts: arguments of ``GeneralizedRCNN``.

    Raises:
        ValueError: ``init`` is unknown, or a box predictor has no ``cls_score`` and ``cls_loss``,
            or has TSD, whose losses also need its sibling.
    """

    def __init__(self, *, init: str = "random", fresh_counts: bool = True, **parts: Any) -> None:
        super().__init__(**parts)
        self.start_decoupled(init, fresh_counts)

    def classifiers(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return classifier and loss of each stage."""
        predictors: Any = self.roi_heads.box_predictor
        found = []
        for stage in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
            if not (hasattr(stage, "cls_score") and hasattr(stage, "cls_loss")):
                raise ValueError(
                    "every box predictor must be LossDrivenOutputLayers, which has a classifier "
                    f"and its loss; got {type(stage).__name__}"
                )
            if isinstance(stage, TSDOutputLayers):
                raise ValueError(
                    "decoupled training does not support TSD, whose losses compare its classifier "
                    "with a sibling: train a new branch beside it with DualHeadRCNN"
                )
            found.append((stage.cls_score, stage.cls_loss))
        return found
