import pytest
import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances

from d2_seesaw.inference.tta.merging import box_predictions
from tests.inference.models import cascade_rcnn, mask_rcnn, yacs_rcnn

SIZES = [(96, 128), (90, 100)]


def seen_by(model):
    batch = [{"image": torch.rand(3, *size) * 255} for size in SIZES]
    features = model.backbone(model.preprocess_image(batch).tensor)
    corners = torch.rand(2, 12, 2) * 60
    boxes = torch.cat([corners, corners + 8 + torch.rand(2, 12, 2) * 30], 2)
    proposals = [
        Instances(size, proposal_boxes=Boxes(b), objectness_logits=torch.zeros(len(b)))
        for size, b in zip(SIZES, boxes, strict=True)
    ]
    return features, proposals


@pytest.mark.parametrize("build", [mask_rcnn, cascade_rcnn])
@torch.no_grad()
def test_thresholded_scores_are_the_heads_own_detections(build):
    model = build()
    features, proposals = seen_by(model)
    boxes, scores = box_predictions(model.roi_heads, features, proposals)
    model.roi_heads.mask_on = False
    expected, _ = model.roi_heads(None, features, proposals)
    detections, _ = fast_rcnn_inference(boxes, scores, SIZES, 0.02, 0.5, 15)
    assert sum(len(d) for d in expected) > 20
    for found, host in zip(detections, expected, strict=True):
        torch.testing.assert_close(found.pred_boxes.tensor, host.pred_boxes.tensor)
        torch.testing.assert_close(found.scores, host.scores)
        assert torch.equal(found.pred_classes, host.pred_classes)


def test_a_box_predictions_method_of_the_heads_is_used():
    class Own(StandardROIHeads):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def box_predictions(self, features, proposals):
            return features, proposals

    assert box_predictions(Own(), "features", "proposals") == ("features", "proposals")


def test_heads_that_override_the_box_part_are_refused():
    model = yacs_rcnn()
    with pytest.raises(ValueError, match=r"Res5ROIHeads overrides the box part.*union"):
        box_predictions(model.roi_heads, {}, [])

    class Changed(StandardROIHeads):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def _forward_box(self, features, proposals):
            return []

    with pytest.raises(ValueError, match="Changed overrides the box part"):
        box_predictions(Changed(), {}, [])
