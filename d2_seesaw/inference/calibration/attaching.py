"""Calibration of a built model: attached to its box predictors, and removed again.

The scores of all RoIs pass through the last box predictor, in plain heads, in the fusion of a
cascade and in test-time augmentation. A calibration of scores is a layer of that predictor. The
tau-normalized classifier is a hook on each classifier. Neither changes the state dict.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.checkpoint import CALIBRATION
from d2_seesaw.layers import Calibration, NormedLinear, ScoreCalibration, tau_normalized
from d2_seesaw.losses import ClassificationLoss

logger = logging.getLogger(__name__)


def apply_calibration(
    model: nn.Module, loaded: Mapping[str, Any], source: str, *, enabled: bool = True
) -> Calibration | None:
    """Attach the calibration of a loaded checkpoint, if it has one, and log it.

    Args:
        model: the model whose weights were loaded.
        loaded: extras of the checkpoint, as ``StrictCheckpointer.load`` returns them.
        source: path of the checkpoint, for the log.
        enabled: False leaves the calibration out.

    Returns:
        The calibration in use, or None.

    Raises:
        ValueError: as :func:`attach_calibration`.
    """
    if CALIBRATION not in loaded:
        return None
    calibration = Calibration.from_entry(loaded[CALIBRATION])
    if not enabled:
        logger.info("Calibration of %s, left out: %s", source, calibration)
        return None
    attach_calibration(model, calibration)
    logger.info("Calibration of %s: %s", source, calibration)
    return calibration


def attach_calibration(model: nn.Module, calibration: Calibration) -> None:
    """Let a model calibrate its scores in inference, in place of an earlier calibration.

    Args:
        model: a detector, with or without a DDP wrapper.
        calibration: see :class:`~d2_seesaw.layers.Calibration`.

    Raises:
        ValueError: the box predictors are not ``LossDrivenOutputLayers``, have another number of
            classes, or their classifiers cannot be tau-normalized.
    """
    predictors = _box_predictors(model)
    last = predictors[-1]
    if calibration.num_classes != last.num_classes:
        raise ValueError(
            f"the calibration is of {calibration.num_classes} classes, the model has "
            f"{last.num_classes}"
        )
    hooked = []
    if calibration.method == "tau-norm":
        hooked = [pair for p in predictors for pair in p.scoring_classifiers()]
        for classifier, loss in hooked:
            _check_classifier(classifier, loss)
    detach_calibration(model)
    for classifier, _ in hooked if not calibration.is_identity else []:
        classifier.register_forward_hook(_TauNormalization(calibration))
    if calibration.method != "tau-norm":
        last.calibration = ScoreCalibration(calibration).to(last.bbox_pred.weight.device)


def detach_calibration(model: nn.Module) -> None:
    """Remove the calibration of a model, if it has one."""
    for predictor in _box_predictors(model):
        predictor.calibration = None
        for classifier, _ in predictor.scoring_classifiers():
            hooks: Any = classifier._forward_hooks
            for key in [k for k, hook in hooks.items() if isinstance(hook, _TauNormalization)]:
                del hooks[key]


def calibration_of(model: nn.Module) -> Calibration | None:
    """Return the calibration that is attached to a detector, or None.

    tau-norm with a tau of 0 changes nothing and is not attached.
    """
    predictors = _box_predictors(model)
    if isinstance(layer := predictors[-1].calibration, ScoreCalibration):
        return layer.calibration
    hooks: Any = predictors[-1].scoring_classifiers()[0][0]._forward_hooks
    found = [hook.calibration for hook in hooks.values() if isinstance(hook, _TauNormalization)]
    return found[0] if found else None


def score_structure(model: nn.Module) -> str:
    """Return how the scores of a model depend on each other.

    The losses of the box predictors are tried on random logits. Scores that sum to 1 are
    ``"background"`` if the score of background depends on every logit, as in softmax, otherwise
    ``"foreground"``, as in Seesaw Loss. Other scores are ``"objectness"`` if all classes are in
    proportion to 1 minus background wherever background changes, otherwise ``"independent"``.

    Raises:
        ValueError: the box predictors are not ``LossDrivenOutputLayers``, or their losses differ in
            this.
    """
    losses = [loss for p in _box_predictors(model) for _, loss in p.scoring_classifiers()]
    found = {type(loss).__name__: _structure(loss) for loss in losses}
    if len(set(found.values())) > 1:
        raise ValueError(f"the losses of the model have scores of different structure: {found}")
    return found.popitem()[1]


class _TauNormalization:
    """Forward hook of a linear classifier that replaces its weights by tau-normalized ones.

    Learned class scales of the classifier (LWS) multiply the new logits as they did the old ones.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def __call__(self, module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        tau, num_classes = self.calibration.parameters["tau"], self.calibration.num_classes
        weight = tau_normalized(module.weight, tau, num_classes)
        logits = F.linear(inputs[0], weight, module.bias)
        learned = getattr(module, "class_scales", None)
        return logits if learned is None else logits * learned.scales


def _box_predictors(model: nn.Module) -> list[Any]:
    if isinstance(model, DistributedDataParallel):
        model = model.module
    found: Any = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    predictors = list(found) if isinstance(found, nn.ModuleList) else [found]
    for predictor in predictors:
        if not hasattr(predictor, "uncalibrated_probs"):
            kind = type(model).__name__ if predictor is None else type(predictor).__name__
            raise ValueError(
                f"calibration needs a detector whose box predictor is LossDrivenOutputLayers, got "
                f"{kind}"
            )
    return predictors


def _check_classifier(classifier: nn.Module, loss: Any) -> None:
    if isinstance(classifier, NormedLinear):
        raise ValueError(
            "tau-norm has no effect on a normalized classifier (NormedLinear): it divides its "
            "weights by their norms already, so that norms cancel. Use another method"
        )
    if not isinstance(classifier, nn.Linear) or type(classifier).forward is not nn.Linear.forward:
        raise ValueError(
            f"tau-norm needs a linear classifier (nn.Linear), got {type(classifier).__name__}"
        )
    logits, scores = _perturbed(loss)
    gains = scores[1:] - scores[:1]
    C = loss.num_classes
    if not torch.equal(gains[:C, :C].argmax(dim=1), torch.arange(C)):
        raise ValueError(
            f"tau-norm needs a loss whose first {C} logits are those of the classes, which those "
            f"of {type(loss).__name__} ({logits.shape[1]} logits) are not"
        )


def _structure(loss: ClassificationLoss) -> str:
    _, scores = _perturbed(loss)
    changes = (scores[1:, -1] - scores[0, -1]).abs() > 1e-12
    if (scores.sum(dim=1) - 1).abs().max() < 1e-6:
        return "background" if changes.all() else "foreground"
    shares = scores[:, :-1] / (1 - scores[:, -1:])
    proportional = torch.allclose(shares[1:][changes], shares[:1], rtol=1e-5)
    return "objectness" if changes.any() and proportional else "independent"


@torch.no_grad()
def _perturbed(loss: Any) -> tuple[Tensor, Tensor]:
    """Return random logits, then the same with each of the L raised, and their scores, on the CPU.

    Returns:
        ``(1 + L, L)`` logits and ``(1 + L, C + 1)`` scores in float64.
    """
    L = loss.num_logits
    device = next((b.device for b in loss.buffers()), None) if hasattr(loss, "buffers") else None
    base = torch.randn(L, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([base[None], base + torch.eye(L, dtype=torch.float64)])
    return logits, loss.scores(logits.to(device)).double().cpu()
