"""Test-time augmentation with TSD, HTC-Lite, scored masks and dual heads."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, pairwise_iou

from d2_seesaw.inference import MeanOverSharedProposals, MultiViewInference, UnionOfDetections
from tests.inference.models import mapped, picture
from tests.modeling.roi_heads import dual_parts

SCALES = [(56, 56), (64, 64), (80, 80)]
MODELS = {
    "cascade with TSD": ("tsd", False),
    "HTC-Lite with TSD": ("tsd_htc_lite", False),
    "dual head": ("tsd_htc_lite", True),
    "dual head without TSD": ("htc_lite", True),
    "dual head of Mask R-CNN": ("plain", True),
}
MERGES = {"union": UnionOfDetections(), "mean": MeanOverSharedProposals()}

every_model = pytest.mark.parametrize("name", MODELS)
every_merge = pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES.keys())


@pytest.fixture
def record(tmp_path):
    return picture(tmp_path / "picture.png", 60, 81)


def build(name):
    """Build a model; if it has two branches, their weights differ so that they disagree."""
    kind, dual = MODELS[name]
    if not dual:
        return dual_parts.trained(kind)
    model = dual_parts.follow(dual_parts.trained(kind), kind)
    for key, parameter in model.named_parameters():
        if key in model.added_keys:
            torch.nn.init.normal_(parameter.data, std=0.5)
    return model.eval()


def fields(output):
    found = output["instances"].get_fields()
    return {k: v.tensor if isinstance(v, Boxes) else v for k, v in found.items()}


@every_merge
@every_model
def test_all_views_are_merged(record, name, merge):
    model = build(name)
    sizes, runs = set(), []
    model.backbone.register_forward_pre_hook(lambda _, given: sizes.add(given[0].shape[2:]))
    model.backbone.register_forward_pre_hook(lambda *_: runs.append(1))
    found = fields(MultiViewInference(model, scales=SCALES, merge=merge)([record])[0])
    assert len(found["scores"]) == 10
    assert len(sizes) == 3  # padded, and the same for mirror images
    assert len(runs) == (12 if merge is MERGES["union"] else 18)
    assert set(found) == {"pred_boxes", "scores", "pred_classes", "pred_masks", "mask_scores"}
    assert found["pred_masks"].shape == (10, 60, 81)
    for key in ("pred_boxes", "scores", "mask_scores"):
        assert torch.isfinite(found[key]).all()
    assert (found["mask_scores"] != found["scores"]).any()
    assert not model.training


@every_merge
@every_model
@torch.no_grad()
def test_one_view_equals_plain_inference(record, name, merge):
    model = build(name)
    image = mapped(record, 80, 80)
    assert max(image["image"].shape) == 80
    (plain,) = model([image])
    (found,) = MultiViewInference(model, scales=[80], flip=False, merge=merge)([record])
    plain, found = fields(plain), fields(found)
    assert plain.keys() == found.keys() >= {"pred_masks", "mask_scores"}
    assert len(plain["scores"]) == 10
    for key, value in found.items():
        if merge is MERGES["union"]:
            assert torch.equal(value, plain[key]), key
        elif key != "pred_masks":  # transforming boxes back and forth rounds them
            torch.testing.assert_close(value, plain[key], atol=1e-3, rtol=1e-3)
        else:
            assert (value == plain[key]).float().mean() > 0.999


@every_merge
@every_model
@torch.no_grad()
def test_a_mirrored_image_gives_mirrored_outputs(record, name, merge):
    views = MultiViewInference(build(name), scales=SCALES[:2], merge=merge)
    image = mapped(record, 60, 81)
    mirrored = image | {"image": image["image"].flip(2)}
    found, other = (fields(views([x])[0]) for x in (image, mirrored))
    x0, y0, x1, y1 = found["pred_boxes"].unbind(1)
    expected = torch.stack([81 - x1, y0, 81 - x0, y1], dim=1)
    # Rounding may swap detections of nearly equal scores.
    match = pairwise_iou(Boxes(expected), Boxes(other["pred_boxes"]))
    match = match * (found["pred_classes"][:, None] == other["pred_classes"])
    best, index = match.max(dim=1)
    assert len(index) == 10
    assert (best > 0.99).all()
    for key in ("scores", "mask_scores"):
        torch.testing.assert_close(found[key], other[key][index], atol=1e-3, rtol=1e-3)
    agree = found["pred_masks"].flip(2) == other["pred_masks"][index]
    assert agree.float().mean() > 0.999


@pytest.mark.parametrize("target", [UnionOfDetections, MeanOverSharedProposals])
def test_the_challenge_part_of_the_config_makes_ten_views_of_the_long_edges(tmp_path, target):
    cfg = LazyConfig.load("configs/common/tta.py", "challenge")
    cfg.merge._target_ = target
    cfg.model = model = build("dual head of Mask R-CNN")
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[2:]))
    record = picture(tmp_path / "flat.png", 16, 81)  # few pixels even at 2000
    found = instantiate(cfg)([record])[0]["instances"]
    assert len(found) == 10
    runs = 2 if target is UnionOfDetections else 3
    long_edges = [long for long in (1200, 1400, 1600, 1800, 2000) for _ in range(2)] * runs
    assert [max(size) for size in sizes] == long_edges
