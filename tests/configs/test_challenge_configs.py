"""Every step of the winning LVIS 2020 entry: full size at 1,203 classes, small on real tensors."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data.transforms import RandomCrop, ResizeScale
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.data import InstaBoost, RandomSampling, RepeatFactorSampling
from d2_seesaw.engine import load_config
from d2_seesaw.layers import CarafeUpsample, DeformConv2d, SyncBatchNorm2d
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling import FPG, DualHeadRCNN
from d2_seesaw.modeling.roi_heads import HTCLiteROIHeads, ScoredMaskHead, TSDOutputLayers

STEPS = sorted(Path("configs/challenge").glob("*.py"))
SMALL = sorted(Path("configs/challenge_small").glob("*.py"))

every_step = pytest.mark.parametrize("path", STEPS, ids=lambda p: p.stem)
every_small_step = pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)


@cache
def read(path):
    """The config in a file, to be read alone: others get the same one."""
    return load_config(str(path))


def without_download(cfg):
    """A copy that starts from random weights."""
    cfg = copy.deepcopy(cfg)
    if "pretrained" in cfg.model.backbone.bottom_up:
        cfg.model.backbone.bottom_up.pretrained = False
    return cfg


@cache
def full_size(path):
    with torch.device("meta"):
        return instantiate(without_download(read(path)).model)


def number(path):
    """Which step a file is."""
    return int(path.stem[4:6])


def test_every_row_of_the_table_has_its_config_and_a_small_one():
    assert [number(path) for path in STEPS] == list(range(12))
    assert [path.name for path in SMALL] == [path.name for path in STEPS]


@every_step
def test_builds_at_lvis_size(path):
    model = full_size(path)
    assert model.roi_heads.num_classes == 1203
    cfg = read(path)
    assert cfg.train.output_dir == f"output/challenge/{path.stem}"
    assert f"configs/challenge/{path.name}" in path.read_text()


@every_step
def test_saves_and_reloads_equal(path, tmp_path):
    cfg = read(path)
    LazyConfig.save(cfg, str(tmp_path / "cfg.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == ["cfg.yaml"]  # no .pkl: all of it is YAML
    again = load_config(str(tmp_path / "cfg.yaml"))
    LazyConfig.save(again, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "cfg.yaml").read_text()


@every_step
def test_imports_the_step_before_it(path):
    if number(path) > 0:
        before = STEPS[number(path) - 1].stem
        assert f"from .{before} import" in path.read_text()


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


@pytest.mark.parametrize("part", PARTS)
def test_every_part_comes_with_its_step_and_stays(part):
    first, has_part = PARTS[part]
    assert [has_part(full_size(path)) for path in STEPS] == [
        number(path) >= first for path in STEPS
    ]


@every_step
def test_augmentation_and_length_change_with_step_6(path):
    cfg = read(path)
    augmented = number(path) >= 6
    assert ("instance_augmentation" in cfg.dataloader.train.mapper) == augmented
    if augmented:
        mapper = cfg.dataloader.train.mapper
        assert isinstance(instantiate(mapper.instance_augmentation), InstaBoost)
        resize, crop, _ = instantiate(mapper.augmentations)
        assert isinstance(resize, ResizeScale)
        assert isinstance(crop, RandomCrop)
        assert tuple(crop.crop_size) == (1280, 1280)
    if number(path) < 10:
        assert cfg.train.epochs == (45 if augmented else 24)
        assert isinstance(instantiate(cfg.dataloader.train.sampling), RandomSampling)


def test_the_dual_head_is_trained_for_12_epochs_with_repeat_factors_on_the_step_before():
    cfg = read(STEPS[10])
    assert isinstance(instantiate(cfg.dataloader.train.sampling), RepeatFactorSampling)
    assert cfg.train.epochs == 12
    assert cfg.train.init_checkpoint == f"{read(STEPS[9]).train.output_dir}/model_final.pth"
    model = full_size(STEPS[10])
    assert isinstance(model, DualHeadRCNN)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".new")[0] for name in trained} == {
        f"roi_heads.{part}"
        for stage in range(3)
        for part in (f"box_head.{stage}.classification", f"box_predictor.{stage}")
    }


def test_the_last_step_tests_with_the_challenges_views():
    tta = read(STEPS[11]).tta
    assert tta.scales == [[long, long] for long in (1200, 1400, 1600, 1800, 2000)]
    assert tta.flip


def test_the_schedule_of_45_epochs_falls_at_30_and_40():
    cfg = copy.deepcopy(read(STEPS[6]))
    cfg.train.max_iter = 45_000
    schedule = instantiate(cfg.lr_multiplier)
    values = [schedule(epoch / 45) for epoch in (29.9, 30, 39.9, 40, 44.9)]
    assert values == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_seesaw_takes_the_place_of_softmax_and_of_the_constraint_on_classification():
    before, after = (full_size(STEPS[i]).roi_heads.box_predictor for i in (8, 9))
    assert all(isinstance(p.cls_loss, SoftmaxLoss) and p.pc_cls for p in before)
    for predictor in after:
        assert isinstance(predictor.cls_loss, SeesawLoss)
        assert isinstance(predictor.sibling.cls_loss, SeesawLoss)
        assert (predictor.pc_cls, predictor.pc_loc) == (False, True)
    losses = [loss for p in after for loss in (p.cls_loss, p.sibling.cls_loss)]
    assert len(set(map(id, losses))) == 6


# --- small versions ---


def test_the_small_dual_head_starts_from_the_small_step_before():
    before, dual = (read(SMALL[step]) for step in (9, 10))
    assert dual.train.init_checkpoint == f"{before.train.output_dir}/model_final.pth"
    assert before.train.output_dir == "output/challenge_small/step09_seesaw"
    assert before.train.init_checkpoint == ""


def picture(objects, seed):
    """An input of training with that many objects."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 90, (objects, 2), generator=generator)
    sizes = torch.randint(20, 50, (objects, 2), generator=generator)
    boxes = torch.cat([corners, corners + sizes], dim=1).float()
    masks = torch.zeros(objects, 144, 144, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    instances = Instances(
        (144, 144),
        gt_boxes=Boxes(boxes),
        gt_classes=torch.randint(20, (objects,), generator=generator),
        gt_masks=BitMasks(masks),
    )
    image = torch.randint(0, 256, (3, 144, 144), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": 144, "width": 144}


def step_of(model, objects):
    """Losses of one training step, with their gradients in the model."""
    batch = [picture(number, seed) for seed, number in enumerate(objects)]
    model.train().zero_grad()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


def trained_twice(path):
    """A small model that has seen many objects, for which all of its losses are there."""
    torch.manual_seed(0)
    model = instantiate(without_download(read(path)).model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    step_of(model, [5, 3])
    optimizer.step()
    return model


@pytest.fixture(scope="module")
def models():
    """Small models by path, each built and trained for a step once."""
    return cache(trained_twice)


@pytest.mark.parametrize("objects", [[0, 0], [1, 0], [7, 4]], ids=["none", "one", "many"])
@every_small_step
def test_a_step_has_finite_losses_and_a_gradient_for_every_parameter(path, objects, models):
    model = models(path)
    losses = step_of(model, objects)
    assert all(loss.isfinite() for loss in losses.values()), losses
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@every_small_step
def test_a_small_model_predicts_and_its_checkpoint_holds_all_of_it(path, models, tmp_path):
    model = models(path).eval()
    inputs = [{key: picture(0, 9)[key] for key in ("image", "height", "width")}]
    with torch.no_grad():
        expected = model(inputs)[0]["instances"]
    StrictCheckpointer(model, str(tmp_path)).save("model")
    torch.manual_seed(1)
    again = instantiate(without_download(read(path)).model).eval()
    StrictCheckpointer(again, require_all=True).load(str(tmp_path / "model.pth"))
    with torch.no_grad():
        found = again(inputs)[0]["instances"]
    assert found.get_fields().keys() == expected.get_fields().keys()
    assert ("mask_scores" in found.get_fields()) == (number(path) >= 5)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0)
    assert torch.equal(found.pred_masks, expected.pred_masks)
