"""Protocol of the evidence, fixed before the first run: data, recipes, seeds, order of the tables.

Nothing was tuned on the validation splits that the tables report. What the papers say is a
hypothesis here, and a table reports what was found.

The cut-outs are photographs and drawings of objects with alpha masks, composed on backgrounds. No
object of the training split is in the validation split. Recipes on cut-outs start from one detector
without classes, which starts from ImageNet's MobileNetV2; the others start from ImageNet's
MobileNetV2. The numbers of steps were chosen by the time that they take.

One run preceded this protocol: 400 steps of softmax from ImageNet's weights, with one seed, reached
3.7 mask AP, and most objects were not found at all. So the detector without classes was added,
before any recipe was compared with another. Another attempt ended after the first seed of the first
table: in the detector, the last stage of the backbone, which was trained then, had come to give the
same features for every image, and both losses reached an AP of 0.0. Since then the backbone is
frozen as a whole.

The tables "ablation" and "losses" were run later than the first one, by a later version and from
another training of the detector, so they have baselines of their own: softmax_2 and seesaw_2. A
result names the weights that it started from, and a table refuses results of different ones.

The table "resize" was added after the results of the first two. The tables of RECALL_CONDITIONS
were added after the result of the table "recall", whose mean IoU did not compete with that of
cross-entropy; and RECALL_LONG after those. The results of LINEAR_CLASSIFIER were added to the
table "losses" after it was complete, because Seesaw Loss has a normalized classifier there, and
softmax and most of the others have a linear one.

Before the first run on 100 and 1000 categories of shapes, their data were changed: 2,000 images of
at most five objects cannot have so many objects.

Before the first result of the tables of HTC-Lite, the start of cascades was changed: the weights of
the detector had fitted the one mask head of HTC-Lite alone, and now every stage has copies of its
box and mask heads.
"""

from collections.abc import Mapping
from typing import Any

from recipes import Data, Recipe, Table

_CUTOUTS = (
    *("cutouts", "--cutouts", "{cutouts}", "--backgrounds", "{backgrounds}"),
    *("--exclude", "symbols/*", "--exclude", "*/cartoon/*", "--image-size", "144", "192"),
)
CUTOUTS = Data(
    "cutouts",
    (
        *_CUTOUTS,
        "--expect-hash",
        "511341f2b263c4176e8adc40b0b48123091efe1098087b01dfd7138534588c9f",
    ),
)
# The same scenes at twice the size.
LARGE = Data("cutouts_large", (*_CUTOUTS[:-2], "288", "384"))
# More categories need more objects, and 1000 the counts of LVIS, more images and more steps.
SHAPES = {
    number: Data(f"shapes_{number}", ("instances", "--categories", str(number), *options))
    for number, options in (
        (10, ("--train-images", "2000", "--val-images", "400")),
        (100, ("--train-images", "2000", "--val-images", "400", "--objects", "3", "8")),
        (
            1000,
            (
                *("--train-images", "10000", "--val-images", "800", "--objects", "3", "8"),
                *("--profile", "lvis_v1"),
            ),
        ),
    )
}
STEPS_OF_1000 = 600
# Classes and backgrounds that occur together, and the same ones independently.
TOGETHER = Data("together", (*_CUTOUTS, "--scenes", "8", "--scene-strength", "0.95"))
APART = Data("apart", (*_CUTOUTS, "--scenes", "8", "--scene-strength", "0"))
STREETS = Data("streets", ("semantic",), semantic=True)

START, START_STEPS = "instances.py", 1200
"""Config of the detector without classes, and its number of steps."""

LOSS = "model.roi_heads.box_predictor.cls_loss"
CLASSIFIER = "model.roi_heads.box_predictor.cls_score"
# No image is repeated.
RANDOM = {"dataloader.train.sampling.threshold": 1e-9}


def _on_cutouts(
    name: str,
    head: str = "",
    config: str = "instances",
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    return Recipe(name, CUTOUTS, config, head, dict(overrides or {}), starts_from_detector=True)


SOFTMAX = _on_cutouts("softmax", "softmax")
SEESAW = _on_cutouts("seesaw", "seesaw")
SOFTMAX_2, SEESAW_2 = _on_cutouts("softmax_2", "softmax"), _on_cutouts("seesaw_2", "seesaw")


def _calibrated(method: str, of: Recipe) -> Recipe:
    return Recipe(f"{of.name}_{method}", CUTOUTS, of.config, calibration=method, of=of.name)


def _on_shapes(number: int, head: str) -> Recipe:
    overrides: dict[str, Any] = {"model.roi_heads.num_classes": number}
    if number == 1000:
        overrides["train.max_iter"] = STEPS_OF_1000
    return Recipe(f"shapes_{number}_{head}", SHAPES[number], "instances", head, overrides)


def _cascade(config: str, data: Data) -> Recipe:
    name = f"{config}_{data.name}"
    return Recipe(name, data, config, starts_from_detector=True, stages=3)


_SEEDS = (1, 2, 3)
# Seesaw Loss with a linear classifier instead of the normalized one.
LINEAR_CLASSIFIER = _on_cutouts("linear_classifier", config="linear_classifier")

SEESAW_SOFTMAX = Table(
    "seesaw_softmax", "Seesaw Loss against softmax", (SOFTMAX, SEESAW), (*_SEEDS, 4, 5)
)

ABLATION = Table(
    "ablation",
    "Parts of Seesaw Loss",
    (
        SEESAW_2,
        _on_cutouts("no_compensation", overrides={f"{LOSS}.q": 0}),
        _on_cutouts("no_mitigation", overrides={f"{LOSS}.p": 0}),
        _on_cutouts("no_factors", overrides={f"{LOSS}.p": 0, f"{LOSS}.q": 0}),
        LINEAR_CLASSIFIER,
        _on_cutouts("seesaw_no_objectness", "seesaw_no_objectness"),
        _on_cutouts("image_counts", config="image_counts"),
        _on_cutouts("p_0.4", overrides={f"{LOSS}.p": 0.4}),
        _on_cutouts("p_1.2", overrides={f"{LOSS}.p": 1.2}),
        _on_cutouts("q_1", overrides={f"{LOSS}.q": 1}),
        _on_cutouts("q_3", overrides={f"{LOSS}.q": 3}),
        _on_cutouts("seesaw_random_sampling", "seesaw", overrides=RANDOM),
        _on_cutouts("softmax_random_sampling", "softmax", overrides=RANDOM),
    ),
    _SEEDS,
)

LOSSES = Table(
    "losses",
    "All losses and calibrations",
    (
        SOFTMAX_2,
        SEESAW_2,
        LINEAR_CLASSIFIER,
        *(
            _on_cutouts(name, name)
            for name in (
                "balanced_group_softmax",
                "balanced_softmax",
                "ecm",
                "equalization_v2",
                "federated",
                "logit_adjustment",
                "seesaw_no_objectness",
                "softmax_objectness",
            )
        ),
        _on_cutouts("federated_seesaw", "federated_seesaw", "federated_seesaw"),
        *(
            _calibrated(method, SOFTMAX_2)
            for method in ("norcal", "logit-adjustment", "temperature", "tau-norm")
        ),
        *(_calibrated(method, SEESAW_2) for method in ("norcal", "temperature")),
    ),
    _SEEDS,
    ranked=True,
)

CLASSES = tuple(
    Table(
        f"shapes_{number}",
        f"Seesaw Loss against softmax on {number} categories of rendered shapes",
        (_on_shapes(number, "softmax"), _on_shapes(number, "seesaw")),
        _SEEDS,
    )
    for number in SHAPES
)

CONTEXT = tuple(
    Table(
        f"context_{data.name}",
        f"HTC-Lite and its context on classes that occur {data.name}",
        tuple(
            _cascade(config, data) for config in ("htc_lite_plain", "htc_lite", "cascade", "htc")
        ),
        _SEEDS,
    )
    for data in (TOGETHER, APART)
)

_SEMANTIC_METRICS = tuple(f"sem_seg/{m}" for m in ("mIoU", "mACC", "pACC", "mIoUr", "mACCr"))

RECALL = Table(
    "recall",
    "Recall Loss against cross-entropy and inverse frequency",
    tuple(
        Recipe(n, STREETS, n) for n in ("semantic", "semantic_inverse_frequency", "semantic_recall")
    ),
    _SEEDS,
    _SEMANTIC_METRICS,
)

# Under which conditions the mean IoU of Recall Loss competes: recall that is smoothed over the
# steps, training that starts from a finished one, and images that the model knows.
_CONTINUED = tuple(
    Recipe(f"{n}_continued", STREETS, n, of="semantic") for n in ("semantic", "semantic_recall")
)
RECALL_SMOOTHED = Table(
    "recall_smoothed",
    "Recall Loss with a running recall",
    (
        RECALL.baseline,
        Recipe(
            "semantic_recall_running",
            STREETS,
            "semantic_recall",
            overrides={"model.sem_seg_head.loss.momentum": 0.9},
        ),
    ),
    _SEEDS,
    _SEMANTIC_METRICS,
)
RECALL_CONTINUED = Table(
    "recall_continued",
    "Recall Loss after a training with cross-entropy, against as much cross-entropy",
    _CONTINUED,
    _SEEDS,
    _SEMANTIC_METRICS,
)
RECALL_KNOWN_IMAGES = Table(
    "recall_known_images",
    "The same models, evaluated on the training images",
    tuple(
        Recipe(f"{r.name}_known_images", STREETS, r.config, of=r.name, split="train")
        for r in _CONTINUED
    ),
    _SEEDS,
    _SEMANTIC_METRICS,
)
RECALL_CONDITIONS = (RECALL_SMOOTHED, RECALL_CONTINUED, RECALL_KNOWN_IMAGES)
# Whether the number of steps alone, without the start, is a condition.
RECALL_LONG = Table(
    "recall_long",
    "Recall Loss against cross-entropy, with twice as many steps from the start",
    tuple(
        Recipe(f"{n}_long", STREETS, n, overrides={"train.max_iter": 1600})
        for n in ("semantic", "semantic_recall")
    ),
    _SEEDS,
    _SEMANTIC_METRICS,
)

RESIZE = Table(
    "resize",
    "Images resized to half their size by OpenCV and by Pillow",
    tuple(
        Recipe(f"{name}_resize", LARGE, config, starts_from_detector=True, start_of=CUTOUTS)
        for name, config in (("pillow", "resized"), ("opencv", "resized_opencv"))
    ),
    _SEEDS,
)

TABLES = (
    SEESAW_SOFTMAX,
    RECALL,
    RESIZE,
    ABLATION,
    *RECALL_CONDITIONS,
    *CONTEXT,
    LOSSES,
    *CLASSES,
    RECALL_LONG,
)

RECIPES = {recipe.name: recipe for table in TABLES for recipe in table.recipes}
"""All recipes by name."""
