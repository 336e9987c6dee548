"""Tests of all steps of the winning LVIS 2020 entry, at full size and as small models."""

from functools import cache

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import RandomCrop, ResizeScale
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.data import InstaBoost, RandomSampling, RepeatFactorSampling
from d2_seesaw.engine.shrink import shrink
from d2_seesaw.layers import CarafeUpsample, DeformConv2d, SyncBatchNorm2d
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling import FPG, DualHeadRCNN
from d2_seesaw.modeling.roi_heads import HTCLiteROIHeads, ScoredMaskHead, TSDOutputLayers
from tests.support.configs import (
    CONFIGS,
    LEAVES,
    QUICKSTART,
    changed,
    each,
    model_in,
    plain,
    read,
    through_yaml,
    without_download,
)
from tests.support.training import assert_complete, picture, step_of

STEPS = [p for p in LEAVES if p.parent.name == "challenge"]
every_step = each(STEPS)


@cache
def small(path):
    """Return the config of a step, shrunk, saved and reloaded. Tests share it."""
    return through_yaml(shrink(changed(path), read(QUICKSTART)))


def number(path):
    """Return the number of a step."""
    return int(path.stem[4:6])


def test_every_row_of_the_table_has_its_config():
    assert [number(path) for path in STEPS] == list(range(12))


@pytest.mark.slow
@every_step
def test_builds_at_lvis_size(path):
    assert model_in(path).roi_heads.num_classes == 1203


PARTS = {
    "SyncBN in the backbone": (1, lambda m: isinstance_anywhere(m.backbone, nn.SyncBatchNorm)),
    "SyncBN in the mask head": (1, lambda m: isinstance_anywhere(m.roi_heads, SyncBatchNorm2d)),
    "CARAFE in the mask head": (2, lambda m: isinstance_anywhere(m.roi_heads, CarafeUpsample)),
    "HTC-Lite": (3, lambda m: isinstance(m.roi_heads, HTCLiteROIHeads)),
    "TSD": (4, lambda m: isinstance_anywhere(m.roi_heads, TSDOutputLayers)),
    "Mask Scoring": (5, lambda m: isinstance_anywhere(m.roi_heads, ScoredMaskHead)),
    "FPG": (7, lambda m: isinstance(m.backbone, FPG)),
    "DCNv2 in the backbone": (
        8,
        lambda m: isinstance_anywhere(m.backbone.bottom_up, DeformConv2d),
    ),
    "Seesaw Loss": (9, lambda m: isinstance_anywhere(m.roi_heads, SeesawLoss)),
}


def isinstance_anywhere(module, kind):
    return any(isinstance(part, kind) for part in module.modules())


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_present_from_its_step_on(part):
    first, has_part = PARTS[part]
    assert [has_part(model_in(path)) for path in STEPS] == [number(path) >= first for path in STEPS]


@every_step
def test_augmentation_and_schedule_length_change_at_step_6(path):
    cfg = read(path)
    augmented = number(path) >= 6
    assert ("instance_augmentation" in cfg.dataloader.train.mapper) == augmented
    if augmented:
        mapper = cfg.dataloader.train.mapper
        assert isinstance(instantiate(mapper.instance_augmentation), InstaBoost)
        resize, crop, _ = map(instantiate, mapper.augmentations)
        assert isinstance(resize, ResizeScale)
        assert isinstance(crop, RandomCrop)
        assert tuple(crop.crop_size) == (1280, 1280)
    if number(path) < 10:
        assert cfg.train.epochs == (45 if augmented else 24)
        assert isinstance(instantiate(cfg.dataloader.train.sampling), RandomSampling)


def test_the_dual_head_extends_step_9_for_12_epochs_with_repeat_factors():
    cfg = read(STEPS[10])
    assert isinstance(instantiate(cfg.dataloader.train.sampling), RepeatFactorSampling)
    assert cfg.train.epochs == 12
    for before, after in ((9, 10), (10, 11)):
        model = f"{read(STEPS[before]).train.output_dir}/model_final.pth"
        assert read(STEPS[after]).train.init_checkpoint == model
    model = model_in(STEPS[10])
    assert isinstance(model, DualHeadRCNN)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".new")[0] for name in trained} == {
        f"roi_heads.{part}"
        for stage in range(3)
        for part in (f"box_head.{stage}.classification", f"box_predictor.{stage}")
    }


def test_the_last_step_uses_the_challenges_tta_views():
    tta = read(STEPS[11]).tta
    assert tta.scales == [[long, long] for long in (1200, 1400, 1600, 1800, 2000)]
    assert tta.flip


def test_the_schedule_of_45_epochs_decays_at_30_and_40():
    schedule = instantiate(changed(STEPS[6], "train.max_iter=45000").lr_multiplier)
    values = [schedule(epoch / 45) for epoch in (29.9, 30, 39.9, 40, 44.9)]
    assert values == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_seesaw_replaces_softmax_and_the_classification_constraint():
    before, after = (model_in(STEPS[i]).roi_heads.box_predictor for i in (8, 9))
    assert all(isinstance(p.cls_loss, SoftmaxLoss) and p.pc_cls for p in before)
    for predictor in after:
        assert isinstance(predictor.cls_loss, SeesawLoss)
        assert isinstance(predictor.sibling.cls_loss, SeesawLoss)
        assert (predictor.pc_cls, predictor.pc_loc) == (False, True)
    losses = [loss for p in after for loss in (p.cls_loss, p.sibling.cls_loss)]
    assert len(set(map(id, losses))) == 6


# --- small versions ---


def test_the_challenge_quickstart_is_the_small_step_9():
    quickstart = changed(CONFIGS / "quickstart/challenge.py")
    quickstart.train.output_dir = small(STEPS[9]).train.output_dir
    assert plain(quickstart) == plain(small(STEPS[9]))


def test_a_small_step_has_random_weights_and_the_quickstarts_data_and_schedule():
    cfg, quickstart = small(STEPS[10]), read(QUICKSTART)
    assert cfg.train.init_checkpoint == ""
    assert (cfg.train.max_iter, cfg.train.epochs) == (quickstart.train.max_iter, None)
    for part in ("optimizer", "lr_multiplier"):
        assert plain(cfg[part]) == plain(quickstart[part])
    assert plain(cfg.dataloader.test) == plain(quickstart.dataloader.test)
    assert cfg.dataloader.train.dataset.names == quickstart.dataloader.train.dataset.names
    assert cfg.model.roi_heads.num_classes == quickstart.model.roi_heads.num_classes


# Steps 6 and 11 only change the data and the test views.
SMALL = [path for path in STEPS if number(path) not in (6, 11)]


@pytest.mark.parametrize("step", [6, 11])
def test_a_step_that_changes_no_layer_keeps_the_previous_model(step):
    assert plain(small(STEPS[step]).model) == plain(small(STEPS[step - 1]).model)


@cache
def trained(path):
    """Return a small model after a step on many objects, for which all losses are present."""
    torch.manual_seed(0)
    model = instantiate(without_download(small(path)).model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    assert_complete(model, step_of(model, [7, 4]))
    optimizer.step()
    return model


@pytest.mark.slow
@each(SMALL)
def test_a_step_has_finite_losses_and_a_gradient_for_every_parameter(path):
    model = trained(path)  # on many objects; below on none and on one
    for objects in ([0, 0], [1, 0]):
        assert_complete(model, step_of(model, objects))


@each(SMALL)
def test_a_small_model_predicts_and_its_checkpoint_is_complete(path, tmp_path):
    model = trained(path).eval()
    inputs = [{key: picture(0, 9)[key] for key in ("image", "height", "width")}]
    with torch.no_grad():
        expected = model(inputs)[0]["instances"]
    StrictCheckpointer(model, str(tmp_path)).save("model")
    torch.manual_seed(1)
    again = instantiate(without_download(small(path)).model).eval()
    StrictCheckpointer(again, require_all=True).load(str(tmp_path / "model.pth"))
    with torch.no_grad():
        found = again(inputs)[0]["instances"]
    assert found.get_fields().keys() == expected.get_fields().keys()
    assert ("mask_scores" in found.get_fields()) == (number(path) >= 5)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0)
    assert torch.equal(found.pred_masks, expected.pred_masks)
