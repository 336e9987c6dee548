"""The choice of each part of a training from what the data say, with its reason.

Every function takes measurements and returns a :class:`Choice`, whose settings are assigned to the
config of a :class:`Recipe`. Nothing is read or built here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from d2_seesaw.own_data.anchors import Anchors, Boxes, fit_anchors, reach
from d2_seesaw.own_data.heads import (
    SEESAW,
    choose_detections,
    choose_loss,
    choose_masks,
    choose_outputs,
)
from d2_seesaw.own_data.measure import DatasetMeasures
from d2_seesaw.own_data.recipes import Choice, Recipe
from d2_seesaw.own_data.resizing import AUGMENTATIONS, Resize, choose_resize

_MOST_REPEATED = 1.5  # mean repeat factor
_BOXES_SAMPLED = 20_000
_TIME_OF_EVALUATIONS = 0.1  # of the time of training
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of names such as left_hand or LeftHand
_ZOO_INPUT = "input and strides are those of R-50 and R-101 in Detectron2's model zoo"
_GIVEN = "given on the command line"
BATCH, STEPS, EPOCHS = (
    "dataloader.train.total_batch_size",
    "train.max_iter",
    "train.epochs",
)
_LONGER_FROM_SCRATCH = 3  # 72 instead of 24 epochs of COCO in He et al., ICCV 2019

MODEL_ZOO: dict[str, Any] = {
    "model.input_format": "BGR",
    "model.pixel_mean": [103.53, 116.28, 123.675],
    "model.pixel_std": [1.0, 1.0, 1.0],
    "model.backbone.bottom_up.stages.stride_in_1x1": True,
}
"""Input and strides of the R-50 and R-101 in Detectron2's model zoo."""


def choose_flip(data: DatasetMeasures) -> Choice | None:
    """Leave out flips if categories differ by left and right only."""
    sided = {n for n in data.names if {w.lower() for w in _WORDS.findall(n)} & {"left", "right"}}
    if not sided:
        return None
    settings = {f"{AUGMENTATIONS}[1].prob": 0.0, "tta.flip": False}
    reason = f"flipped images would have the wrong label, such as {sorted(sided)[0]!r}"
    return Choice("flips", "none", reason, settings)


def choose_anchors(data: DatasetMeasures, recipe: Recipe, resize: Resize) -> Choice:
    """Fit the anchors to the resized boxes and compare them with the default ones.

    Those of a detector to start from keep their number, and their ratios where they are known: its
    RPN was trained with them.
    """
    boxes = resized_boxes(data, resize)
    default, keep_ratios, origin = _default_anchors(recipe)
    five = not recipe.starts_from_detector
    fitted = fit_anchors(boxes, default, five_ratios=five, keep_ratios=keep_ratios)
    before, best = reach(boxes, default), reach(boxes, fitted)
    sizes = ", ".join(f"{size:g}" for size in fitted.sizes)
    ratios = ", ".join(f"{ratio:g}" for ratio in fitted.aspect_ratios)
    value = f"sizes {sizes} pixels; height / width {ratios}"
    if fitted == default:
        reason = f"of the resized boxes the default anchors overlap {before}"
    else:
        reason = f"of the resized boxes they overlap {best}; the default anchors {before}"
    generator = "model.proposal_generator.anchor_generator"
    settings: dict[str, Any] = {}
    if fitted != recipe.anchors:
        settings[f"{generator}.sizes"] = [[size] for size in fitted.sizes]
        settings[f"{generator}.aspect_ratios"] = list(fitted.aspect_ratios)
    if len(fitted.aspect_ratios) != len(recipe.anchors.aspect_ratios):
        settings["model.proposal_generator.head.num_anchors"] = len(fitted.aspect_ratios)
    return Choice("anchors", value, reason + origin, settings)


def _default_anchors(recipe: Recipe) -> tuple[Anchors, bool, str]:
    """Return the default anchors, whether their ratios must be kept, and where they are from."""
    own, start = recipe.anchors, recipe.start
    number = len(own.aspect_ratios)
    if not recipe.starts_from_detector:
        return own, False, ""
    if start is None or start.anchors is None:
        unknown = (
            f"; {recipe.weights} does not show here how many its RPN has, so it keeps {number}"
        )
        return own, False, unknown
    if start.aspect_ratios is not None:
        sizes = start.sizes if start.sizes and len(start.sizes) == len(own.sizes) else own.sizes
        origin = "; the ratios are those of the detector that training starts from"
        return Anchors(list(sizes), list(start.aspect_ratios), own.strides), True, origin
    origin = (
        f"; the RPN of the detector that training starts from has {start.anchors} of each size, "
        "and no config.yaml beside it names their ratios"
    )
    if start.anchors != number:
        ratios = [round(float(r), 2) for r in 2 ** np.linspace(-1, 1, start.anchors)]
        own = replace(own, aspect_ratios=ratios if start.anchors > 1 else [1.0])
    return own, False, origin


def resized_boxes(data: DatasetMeasures, resize: Resize) -> Boxes:
    """Return the boxes, or an even sample of them, in the pixels of the resized images."""
    chosen = np.linspace(0, len(data.boxes) - 1, min(len(data.boxes), _BOXES_SAMPLED)).astype(int)
    image = data.image[chosen]
    scale = resize.scales(data.image_sizes)[image, None]
    return Boxes(data.boxes[chosen] * scale, data.image_sizes[image] * scale)


def choose_sampling(data: DatasetMeasures) -> tuple[float, Choice]:
    """Choose the greatest repeat threshold that lengthens an epoch by half at most.

    Returns:
        The mean number of times that an image is shown in an epoch, and the choice.
    """
    useful = [e for e in data.thresholds if 1 < e.mean_factor <= _MOST_REPEATED]
    key = "dataloader.train.sampling.threshold"
    if not useful:
        least = data.thresholds[0]
        if least.mean_factor > _MOST_REPEATED:
            reason = f"the epoch is {least.mean_factor:.2f} times as long even at this threshold"
            value = {key: least.threshold}
            return least.mean_factor, Choice("repeats", f"{least.threshold:g}", reason, value)
        repeating = [e for e in data.thresholds if e.mean_factor > 1]
        if repeating:  # the lower ones have no effect
            first = repeating[0]
            reason = (
                f"threshold {first.threshold:g} would repeat {first.repeated_images:,} of "
                f"{first.images:,} images, and make an epoch {first.mean_factor:.2f} times as "
                f"long, which is more than {_MOST_REPEATED:g}; lower ones repeat none"
            )
        else:
            highest = data.thresholds[-1].threshold
            reason = (
                "no category is in so few images that a threshold up to "
                f"{highest:g} would repeat it"
            )
        return 1.0, Choice("repeats", "no image is repeated", reason, {key: least.threshold})
    best = useful[-1]
    reason = (
        f"it repeats {best.repeated_images:,} of {best.images:,} images, and is the greatest "
        f"threshold with which an epoch is at most {_MOST_REPEATED:g} times as long "
        f"({best.mean_factor:.2f})"
    )
    choice = Choice("repeats", f"threshold {best.threshold:g}", reason, {key: best.threshold})
    return best.mean_factor, choice


def choose_batch(
    data: DatasetMeasures, recipe: Recipe, resize: Resize, given: Mapping[str, Any] | None = None
) -> tuple[int, Choice]:
    """Choose the largest batch, a power of two per process, that fits the pixels of a step."""
    if isinstance(batch := (given or {}).get(BATCH), int):
        return batch, Choice("batch", f"{batch} images", _GIVEN, {BATCH: batch})
    mean, processes = resize.pixels(data.image_sizes), recipe.processes
    fitting = max(2.0 if processes == 1 else 1.0, recipe.pixels / processes / mean)
    batch = min(recipe.batch, processes * 2 ** math.floor(math.log2(fitting)))
    if batch == recipe.batch:
        reason = f"images of {mean / 1e6:.2g} megapixels fit"
        return batch, Choice("batch", f"{batch} images", reason, {BATCH: batch})
    reason = (
        f"the resized images have {mean / 1e6:.2g} megapixels, and {recipe.pixels / 1e6:.2g} a "
        f"step are what the base config is made for on a {recipe.device}"
    )
    return batch, Choice("batch", f"{batch} images", reason, {BATCH: batch})


def choose_start(recipe: Recipe, *, from_scratch: bool) -> Choice:
    """Start from the weights of the recipe, or train everything from random ones."""
    settings: dict[str, Any] = {"train.init_checkpoint": recipe.weights}
    if not from_scratch and recipe.starts_from_detector:
        reason = "layers that depend on the classes start anew, but for classes of the same name"
        settings |= {"train.class_transfer": "by_name"}
        if recipe.has_zoo_input:
            settings |= MODEL_ZOO
            reason += f"; {_ZOO_INPUT}"
        return Choice("start", recipe.weights, reason, settings)
    if not from_scratch:
        reason = "pretrained features need far fewer images; --from-scratch trains without"
        if recipe.has_zoo_input:
            settings |= MODEL_ZOO
            reason += f"; {_ZOO_INPUT}"
        return Choice("start", recipe.weights, reason, settings)
    backbone = "model.backbone.bottom_up"
    norms = ("norm",) if recipe.is_cpu else ("stem.norm", "stages.norm")
    norm = "BN" if recipe.processes == 1 else "SyncBN"
    settings = {
        "train.init_checkpoint": "",
        f"{backbone}.freeze_at": 0,
        **{f"{backbone}.{key}": norm for key in norms},
    }
    return Choice("start", "random weights, nothing is frozen", "asked for", settings)


def choose_length(
    data: DatasetMeasures,
    recipe: Recipe,
    batch: int,
    repeats: float,
    *,
    from_scratch: bool = False,
    given: Mapping[str, Any] | None = None,
) -> tuple[int, Choice]:
    """Choose the number of steps, which grows more slowly than the data."""
    images = data.trained_images * repeats
    steps, epochs = ((given or {}).get(key) for key in (STEPS, EPOCHS))
    if isinstance(steps, int):
        reason = f"{_GIVEN}; {steps * batch / images:.3g} epochs of {images:,.0f} images"
        return steps, Choice("length", f"{steps:,} steps", reason, {EPOCHS: None, STEPS: steps})
    if isinstance(epochs, int | float):
        steps = math.ceil(epochs * images / batch)
        reason = f"{epochs:g} epochs of {images:,.0f} images are {_GIVEN}"
        settings = {EPOCHS: epochs, STEPS: None}
        return steps, Choice("length", f"{steps:,} steps", reason, settings)
    if recipe.is_cpu:
        seen = 200 * math.sqrt(images)
        rule = "200 times the root of the images of an epoch, for the time of a CPU"
    else:
        epochs = float(np.clip(64 * (3000 / images) ** (1 / 3), 12, 200))
        seen = images * epochs
        rule = "64 epochs of 3,000 images, and fewer of more, as Detectron2's Cityscapes and COCO"
    if from_scratch:
        seen *= _LONGER_FROM_SCRATCH
        rule = f"{_LONGER_FROM_SCRATCH} times {rule}"
    low, high = recipe.steps
    steps = max(low, round(seen / batch))
    if high is not None:
        steps = min(high, steps)
    steps = math.ceil(steps / 10) * 10
    reason = (
        f"{steps * batch / images:.3g} epochs of {images:,.0f} images with repeats; the rule is "
        f"{rule}, and at least {low:,} steps"
    )
    return steps, Choice("length", f"{steps:,} steps", reason, {EPOCHS: None, STEPS: steps})


def choose_rate(recipe: Recipe, batch: int, steps: int) -> Choice:
    """Scale the learning rate with the batch, and warm up over a tenth of the steps."""
    rate = float(f"{recipe.lr * batch / recipe.batch:.3g}")
    warm_up = min(500, max(10, steps // 10))
    reason = f"{recipe.lr:g} for {recipe.batch} images, in proportion to the batch"
    settings = {"optimizer.lr": rate, "lr_multiplier.warmup_iters": warm_up}
    return Choice("rate", f"{rate:g} after {warm_up} steps of warm-up", reason, settings)


def choose_evaluation(
    recipe: Recipe, evaluated_images: int, batch: int, steps: int, *, masks: bool
) -> Choice:
    """Evaluate and save regularly, within about a tenth of the time, and end what gets worse."""
    # An evaluated image takes about as long as a trained one.
    within = _TIME_OF_EVALUATIONS * steps * batch / max(1, evaluated_images)
    number = int(np.clip(math.floor(within), 1, 5 if recipe.is_cpu else 20))
    period = math.ceil(steps / number)
    metric = "segm/AP" if masks else "bbox/AP"
    patience = max(3, math.ceil(number / 3))
    reason = (
        f"{evaluated_images:,} images are evaluated {number} times within about a tenth of the "
        f"time of training, or at its end; model_best.pth has the best {metric}"
    )
    settings: dict[str, Any] = {
        "train.eval_period": period,
        "train.checkpointer.period": period,
        "train.best_checkpoint.metric": metric,
    }
    if number > patience:
        settings |= {
            "train.early_stopping.metric": metric,
            "train.early_stopping.patience": patience,
        }
        reason += f", and training ends when {patience} evaluations in a row bring no better one"
    return Choice("evaluation", f"every {period:,} steps", reason, settings)


def choose(
    data: DatasetMeasures,
    recipe: Recipe,
    evaluated_images: int,
    *,
    evaluated_masks: bool = True,
    from_scratch: bool = False,
    loss: str = SEESAW,
    given: Mapping[str, Any] | None = None,
) -> list[Choice]:
    """Choose everything that follows from the data.

    Args:
        data: measurements of the training split.
        recipe: limits of the base config.
        evaluated_images: number of images of the other split.
        evaluated_masks: whether objects of the other split have masks.
        from_scratch: whether to train without pretrained weights.
        loss: one of ``LOSSES``.
        given: values that the user gives, by dotted key of the config. Number of steps or epochs
            and batch are taken from them, so that warm-up, rate and evaluation fit.
    """
    start = choose_start(recipe, from_scratch=from_scratch)
    resize, resized = choose_resize(data, recipe)
    flip = choose_flip(data)
    repeats, sampling = choose_sampling(data)
    batch, batched = choose_batch(data, recipe, resize, given)
    steps, length = choose_length(
        data, recipe, batch, repeats, from_scratch=from_scratch, given=given
    )
    masks = data.has_masks and evaluated_masks
    return [
        start,
        choose_masks(data, evaluated=evaluated_masks),
        choose_outputs(data, recipe),
        choose_loss(data, loss),
        resized,
        *([flip] if flip else []),
        choose_anchors(data, recipe, resize),
        choose_detections(data, recipe),
        sampling,
        batched,
        length,
        choose_rate(recipe, batch, steps),
        choose_evaluation(recipe, evaluated_images, batch, steps, masks=masks),
    ]
