"""Test-time augmentation and masks on boxes with Hybrid Task Cascade and its semantic branch."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes

from d2_seesaw.engine import load_config
from d2_seesaw.inference import MeanOverSharedProposals, MultiViewInference, UnionOfDetections
from d2_seesaw.inference.roi_masks import ROIMaskInference, with_roi_masks
from tests.inference.models import _spread, mapped, picture


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    cfg = load_config("configs/quickstart/htc.py").model
    add = LazyConfig.load("configs/common/models/htc_r50_fpn.py", "add_semantic_branch")
    add(cfg, num_classes=3)
    for predictor in cfg.roi_heads.box_predictors:
        predictor.update(test_score_thresh=1e-3, test_topk_per_image=10)
    return _spread(instantiate(cfg))


@pytest.fixture
def record(tmp_path):
    return picture(tmp_path / "picture.png", 60, 81)


def fields(output):
    found = output["instances"].get_fields()
    return {k: v.tensor if isinstance(v, Boxes) else v for k, v in found.items()}


@pytest.mark.parametrize("merge", [UnionOfDetections(), MeanOverSharedProposals()])
def test_one_view_gives_the_models_own_results(model, record, merge):
    views = MultiViewInference(model, scales=[(96, 160)], flip=False, merge=merge)
    with torch.no_grad():
        (expected,) = model([mapped(record, 96, 160)])
    found, expected = fields(views([record])[0]), fields(expected)
    assert len(found["scores"]) == 10
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_masks_of_a_view_and_its_mirror_image_are_averaged(model, record):
    merge = MeanOverSharedProposals()
    views = MultiViewInference(model, scales=[(96, 160)], merge=merge)
    (merged,) = views.inference([record])
    total = 0
    for mirrored in (False, True):
        image = mapped(record, 96, 160)["image"]
        scale = torch.tensor([image.shape[2] / 81, image.shape[1] / 60]).repeat(2)
        boxes = merged.pred_boxes.tensor * scale
        if mirrored:
            image = image.flip(2)
            boxes = torch.stack(
                [
                    image.shape[2] - boxes[:, 2],
                    boxes[:, 1],
                    image.shape[2] - boxes[:, 0],
                    boxes[:, 3],
                ],
                dim=1,
            )
        given = type(merged)(
            tuple(image.shape[1:]), pred_boxes=Boxes(boxes), pred_classes=merged.pred_classes
        )
        (seen,) = model.inference([{"image": image}], [given], do_postprocess=False)
        total = total + (seen.pred_masks.flip(-1) if mirrored else seen.pred_masks)
    torch.testing.assert_close(merged.pred_masks, total / 2, rtol=0, atol=1e-4)


@torch.no_grad()
def test_evaluation_gets_the_masks_on_their_boxes(model, record):
    wrapped = with_roi_masks(model)
    assert isinstance(wrapped, ROIMaskInference)
    given = [mapped(record, 96, 160)]
    on_boxes, whole = wrapped(given)[0]["instances"], model(given)[0]["instances"]
    pasted = on_boxes.pred_masks.to_bitmasks(on_boxes.pred_boxes, 60, 81).tensor
    assert torch.equal(pasted, whole.pred_masks)
