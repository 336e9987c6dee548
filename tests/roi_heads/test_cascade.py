import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils.events import EventStorage

from d2_seesaw.roi_heads import LossDrivenCascadeROIHeads
from tests.roi_heads import parts
from tests.roi_heads.parts import C

MMDET = {"resample": True, "stage_loss_weights": [1, 0.5, 0.25]}


@pytest.fixture
def storage():
    with EventStorage(0) as storage:
        yield storage


def cascade(**options):
    return LossDrivenCascadeROIHeads(**parts.cascade_options(**options))


def losses_of(heads, batch, seed=0):
    torch.manual_seed(seed)  # of the sampling
    features, proposals, targets = batch
    _, losses = heads(parts.images(len(targets)), features, proposals, targets)
    return losses


def detectron2s(ours):
    """Detectron2's heads with the weights of ``ours``, which has softmax losses."""
    options = parts.cascade_options(seesaw=False, masks="one")
    options["box_predictors"] = [
        FastRCNNOutputLayers(
            ShapeSpec(channels=parts.WIDTH),
            box2box_transform=parts.transform(k),
            num_classes=C,
            cls_agnostic_bbox_reg=True,
            test_score_thresh=0.1,
        )
        for k in range(3)
    ]
    host = CascadeROIHeads(**options)
    host.load_state_dict(ours.state_dict())
    return host


def test_with_softmax_and_mean_probabilities_it_is_detectron2s_cascade(storage):
    ours = cascade(seesaw=False, score_fusion="probabilities")
    host = detectron2s(ours)
    batch = parts.batch()
    losses, expected = losses_of(ours, batch), losses_of(host, batch)
    assert list(losses) == list(expected)
    torch.testing.assert_close(losses, expected)
    maps = list(batch[0].values())
    gradients = torch.autograd.grad(sum(losses.values()), maps)
    torch.testing.assert_close(gradients, torch.autograd.grad(sum(expected.values()), maps))
    for name, parameter in host.named_parameters():
        assert parameter.shape == ours.get_parameter(name).shape
    with torch.no_grad():
        features, proposals, _ = batch
        found, _ = ours.eval()(None, features, proposals)
        expected, _ = host.eval()(None, features, proposals)
    assert min(map(len, expected)) > 3
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f.pred_classes, e.pred_classes)
        torch.testing.assert_close(f.pred_boxes.tensor, e.pred_boxes.tensor)
        torch.testing.assert_close(f.scores, e.scores)
        torch.testing.assert_close(f.pred_masks, e.pred_masks)
