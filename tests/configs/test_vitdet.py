"""Tests of configs/vitdet: each recipe with the federated loss and with Seesaw Loss."""

import pytest

from d2_seesaw.losses import SeesawLoss
from tests.support.configs import CONFIGS, changed, model_in, plain

FOLDER = CONFIGS / "vitdet"
RECIPES = ("vit_b_{}_100ep", "swin_b_{}_50ep", "swin_l_{}_50ep", "eva02_b_{}_50k")
OF_THE_LOSS = ("cls_score", "cls_loss", "test_score_thresh")

# Ignore warnings from Detectron2's transformers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*meshgrid:UserWarning", "ignore:.*timm:FutureWarning"
)


def path_of(recipe, loss):
    return FOLDER / f"cascade_mask_rcnn_{recipe.format(loss)}.py"


def test_every_recipe_has_both_losses():
    paths = {path_of(recipe, loss) for recipe in RECIPES for loss in ("federated", "seesaw")}
    assert set(FOLDER.glob("*.py")) == paths


@pytest.mark.parametrize("recipe", RECIPES)
def test_seesaw_changes_loss_classifier_and_threshold_alone(recipe):
    federated, seesaw = (changed(path_of(recipe, loss)) for loss in ("federated", "seesaw"))
    for cfg in (federated, seesaw):
        del cfg.train.output_dir
        for predictor in cfg.model.roi_heads.box_predictors:
            for key in OF_THE_LOSS:
                predictor.pop(key, None)
    assert plain(federated.model) == plain(seesaw.model)
    for part in ("dataloader", "train", "optimizer", "lr_multiplier", "tta"):
        texts = [str(plain(cfg[part])) for cfg in (federated, seesaw)]
        assert texts[0].replace("federated", "seesaw") == texts[1]


@pytest.mark.parametrize("recipe", RECIPES[:1])
def test_every_stage_has_a_seesaw_loss_of_its_own(recipe):
    predictors = model_in(path_of(recipe, "seesaw")).roi_heads.box_predictor
    losses = [predictor.cls_loss for predictor in predictors]
    assert all(isinstance(loss, SeesawLoss) for loss in losses)
    assert len({id(loss) for loss in losses}) == 3
    assert [predictor.test_score_thresh for predictor in predictors] == [1e-4] * 3
