"""The choice of losses, outputs and limits of the heads from what the data say, with its reason."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2_seesaw.own_data.measure import DatasetMeasures
from d2_seesaw.own_data.recipes import Choice, Recipe

_FEW_OBJECTS = 1000  # of a category, for boxes and masks of its own in the time of a CPU

SEESAW = "seesaw"
LOSSES = (
    *(SEESAW, "softmax", "seesaw_no_objectness", "softmax_objectness", "balanced_group_softmax"),
    *("balanced_softmax", "logit_adjustment", "federated", "equalization_v2", "ecm"),
)
"""Parts of ``common/heads/classification`` that fit any model."""

_LOSS_CODE = """_losses = load_part("common/heads/classification")
model.roi_heads.box_predictor.update(_losses.{loss})
"""


def choose_loss(data: DatasetMeasures, loss: str = SEESAW) -> Choice:
    """Set the number of classes. Seesaw Loss is kept in any case, unless another one is asked for.

    Args:
        data: measurements of the training split.
        loss: one of ``LOSSES``.
    """
    C = len(data.names)
    reason = (
        f"the most frequent category is in {data.imbalance:.3g} times as many images as the rarest"
    )
    settings = {"model.roi_heads.num_classes": C}
    if loss != SEESAW:
        code = _LOSS_CODE.format(loss=loss)
        return Choice("loss", f"{loss} over {C:,} classes", f"asked for; {reason}", settings, code)
    if data.imbalance < 2:
        reason += "; with counts this even, the factors of Seesaw Loss are close to 1"
    return Choice("loss", f"Seesaw Loss over {C:,} classes", reason, settings)


def choose_masks(data: DatasetMeasures, *, evaluated: bool = True) -> Choice:
    """Leave out the masks if there are none. The settings for training are by ``boxes_only``.

    Args:
        data: measurements of the training split.
        evaluated: whether objects of the other split have masks.
    """
    if not data.has_masks:
        return Choice("masks", "boxes only", "no object of the training split has a mask", {})
    if evaluated:
        return Choice("masks", "trained and evaluated", "the objects have masks", {})
    reason = "no object of the split for evaluation has a mask"
    settings = {"dataloader.evaluator.tasks": ["bbox"]}
    return Choice("masks", "trained, but only boxes are evaluated", reason, settings)


def choose_outputs(data: DatasetMeasures, recipe: Recipe) -> Choice:
    """Let the classes share boxes and masks if most have few objects and the time is that of a CPU.

    A detector that training starts from keeps its own outputs.
    """
    counts = data.objects_per_category
    median = float(np.median(counts[counts > 0]))
    found = f"half of the categories have at most {median:,.0f} objects"
    parts = ("boxes", "masks") if data.has_masks else ("boxes",)
    if recipe.starts_from_detector:
        return _outputs_of_start(recipe, parts)
    if len(data.names) == 1:
        return _outputs({}, parts, "there is one")
    if not recipe.is_cpu or median >= _FEW_OBJECTS:
        return _outputs({}, parts, f"as in the base config; {found}")
    reason = f"{found}, too few to learn them for each class in the time of a CPU"
    return _outputs(dict.fromkeys(parts, True), parts, reason)


def _outputs_of_start(recipe: Recipe, parts: Sequence[str]) -> Choice:
    """Keep the outputs that the checkpoint of a detector shows."""
    start = recipe.start
    known = {} if start is None else {"boxes": start.shares_boxes, "masks": start.shares_masks}
    unknown = [part for part in parts if known.get(part) is None]
    reasons = []
    if len(unknown) < len(parts):
        reasons.append("as the checkpoint of the detector that training starts from has them")
    if unknown:
        where = "cannot be read here" if start is None else "has none that are known"
        reasons.append(f"{' and '.join(unknown)} as in the base config: {recipe.weights} {where}")
    return _outputs({part: bool(known.get(part)) for part in parts}, parts, "; ".join(reasons))


def _outputs(shared: Mapping[str, bool], parts: Sequence[str], reason: str) -> Choice:
    """Return the choice for the parts of which each is the same for all classes, or is not."""
    settings: dict[str, Any] = {}
    if shared.get("boxes"):
        settings["model.roi_heads.box_predictor.cls_agnostic_bbox_reg"] = True
    if shared.get("masks"):
        settings["model.roi_heads.mask_head.num_classes"] = 1
    same = " and ".join(part for part in parts if shared.get(part))
    own = " and ".join(part for part in parts if not shared.get(part))
    values = [f"the same {same} for all classes"] * bool(same) + [f"{own} for each class"] * bool(
        own
    )
    return Choice("outputs", ", ".join(values), reason, settings)


def choose_detections(data: DatasetMeasures, recipe: Recipe) -> Choice:
    """Choose how many RoIs are trained and how many detections are kept, from the crowdedness."""
    most = int(data.objects_per_image.max())
    kept = int(np.clip(math.ceil(5 * most / 50) * 50, 100, 300))
    usual = float(np.quantile(data.objects_per_image, 0.9))
    rois = int(np.clip(math.ceil(8 * usual / 16) * 16, *recipe.rois))
    threshold = float(f"{min(0.02, 0.1 / len(data.names)):.1g}")
    reason = (
        f"an image has up to {most} objects, and most have at most {usual:.0f}; with "
        f"{len(data.names):,} classes a score by chance is {1 / len(data.names):.2g}, and the tail "
        "scores low"
    )
    predictor = "model.roi_heads.box_predictor"
    settings: dict[str, Any] = {
        "model.roi_heads.batch_size_per_image": rois,
        f"{predictor}.test_topk_per_image": kept,
        f"{predictor}.test_score_thresh": threshold,
    }
    value = f"up to {kept} with a score from {threshold:g}; {rois} RoIs of an image are trained"
    return Choice("detections", value, reason, settings)
