"""Protocol of the evidence, fixed before the first run: data, recipes, seeds, order of the tables.

Nothing was tuned on the validation split that the tables report. What the papers say is a
hypothesis here, and a table reports what was found.

The cut-outs are photographs and drawings with alpha masks of objects on photographs. No object of
the training split is in the validation split. Recipes start from ImageNet's MobileNetV2, which is
frozen up to stride 16.
"""

from recipes import Data, Recipe, Table

_CUTOUTS = (
    "cutouts",
    "--cutouts",
    "{cutouts}",
    "--backgrounds",
    "{backgrounds}",
)
CUTOUTS = Data("cutouts", _CUTOUTS)
RELATED = Data("related", (*_CUTOUTS, "--scenes", "8", "--scene-strength", "0.9"))
UNRELATED = Data("unrelated", (*_CUTOUTS, "--scenes", "8", "--scene-strength", "0"))
STREETS = Data("streets", ("semantic", "--train-images", "300", "--val-images", "100"), True)
SHAPES = {
    categories: Data(
        f"shapes_{categories}",
        ("instances", "--categories", str(categories), "--train-images", "2000"),
    )
    for categories in (10, 100, 1000)
}

_PREDICTOR = "model.roi_heads.box_predictor"
_LOSS = f"{_PREDICTOR}.cls_loss"
_RANDOM = {"dataloader.train.sampling.threshold": 0}


def _cutouts(name: str, head: str, **overrides: object) -> Recipe:
    return Recipe(name, CUTOUTS, "instances", head, overrides)


SOFTMAX = _cutouts("softmax", "softmax")
SEESAW = _cutouts("seesaw", "seesaw")
