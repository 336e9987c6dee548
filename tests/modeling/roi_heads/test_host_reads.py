"""Tests that ROI heads make the host wait for a GPU no more often than Detectron2's.

On the CPU, the calls that would wait on a GPU are counted. Shapes: R RoIs, C classes.
"""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from torch.testing import assert_close

from d2_seesaw.losses import SeesawLoss, _common, _roi_softmax
from d2_seesaw.modeling.roi_heads import LossDrivenCascadeROIHeads
from tests.losses.all_losses import ROI_LOSSES
from tests.losses.all_losses import C as CLASSES
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.parts import C
from tests.support.operators import HostReads


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the losses choose what they do on a GPU."""
    monkeypatch.setattr(_roi_softmax, "must_not_wait", lambda tensor: True)


def stock_predictor(stage=0):
    return FastRCNNOutputLayers(
        ShapeSpec(channels=parts.WIDTH),
        num_classes=C,
        box2box_transform=parts.transform(stage),
        cls_agnostic_bbox_reg=True,
    )


def stock_mask_head():
    return MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=parts.CHANNELS, width=14, height=14),
        num_classes=C,
        conv_dims=[parts.CHANNELS, parts.CHANNELS],
    )


def standard(predictor, mask_head):
    return StandardROIHeads(
        num_classes=C,
        batch_size_per_image=24,
        positive_fraction=0.5,
        proposal_matcher=parts.matchers()[0],
        box_in_features=list(parts.LEVELS),
        box_pooler=parts.pooler(7),
        box_head=parts.box_head(),
        box_predictor=predictor,
        mask_in_features=list(parts.LEVELS),
        mask_pooler=parts.pooler(14),
        mask_head=mask_head,
    )


HEADS = {
    "Mask R-CNN": (
        lambda: standard(parts.box_predictor(), parts.mask_head()),
        lambda: standard(stock_predictor(), stock_mask_head()),
    ),
    "Cascade Mask R-CNN": (
        lambda: LossDrivenCascadeROIHeads(**parts.cascade_options()),
        lambda: CascadeROIHeads(
            **parts.cascade_options()
            | {"box_predictors": [stock_predictor(k) for k in range(3)]}
            | {"mask_head": stock_mask_head()}
        ),
    ),
}


@pytest.mark.usefixtures("on_a_gpu", "storage")
@pytest.mark.parametrize(("ours", "stock"), HEADS.values(), ids=HEADS.keys())
def test_training_reads_from_a_gpu_at_most_where_detectron2_does(ours, stock):
    batch = parts.batch()
    found = []
    for new_heads in (ours, stock):
        heads = new_heads()
        parts.losses_of(heads, batch)  # one-time reads happen here
        with HostReads() as reads:
            sum(parts.losses_of(heads, batch).values()).backward()
        found.append(reads.calls)
    own, host = found
    assert host["nonzero"] > 3
    # One "tolist" stands for the accuracies, for which Detectron2 reads six times.
    assert own.pop("tolist") <= 3
    assert all(number <= host[name] for name, number in own.items()), (own, host)
    assert own.total() + 3 < host.total()


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("new_loss", ROI_LOSSES.values(), ids=ROI_LOSSES.keys())
def test_no_loss_reads_labels_whose_range_is_known(new_loss):
    loss = new_loss(CLASSES)
    logits = torch.randn(9, loss.num_logits, requires_grad=True)
    labels = torch.tensor([0, 1, CLASSES, -1, 2, 3, CLASSES, 0, 1])
    loss(logits, labels)  # may read the counts of the training split
    _common.note_label_range(labels, -1, CLASSES)
    with HostReads() as reads:
        sum(loss(logits, labels).values()).backward()
    assert not +reads.calls


def test_a_changed_label_is_read_again():
    labels = torch.tensor([0, 1])
    _common.note_label_range(labels, 0, 1)
    labels[0] = 7
    with pytest.raises(ValueError, match=r"labels must be in \[-1, 4\].*got 7"):
        SeesawLoss(4)(torch.zeros(2, 6), labels)


@pytest.mark.usefixtures("storage")
def test_a_wrong_label_of_a_proposal_is_reported():
    predictor = parts.box_predictor()
    proposals = parts.positives((0, C + 2))
    predictions = predictor(torch.zeros(2, parts.WIDTH))
    with pytest.raises(ValueError, match=rf"labels must be in \[-1, {C}\].*got {C + 2}"):
        predictor.losses(predictions, proposals)


@pytest.mark.parametrize("objectness", [True, False])
def test_ignoring_background_rois_equals_selecting_the_others(objectness, monkeypatch):
    # Ignored on a GPU, where selecting would wait; selected on the CPU, which saves time.
    logits, labels = (
        torch.randn(9, 6 if objectness else 5),
        torch.tensor([0, 4, 3, -1, 4, 2, 1, 0, 4]),
    )
    found = []
    for waits in (False, True):
        monkeypatch.setattr(_roi_softmax, "must_not_wait", lambda tensor, w=waits: not w)
        leaf = logits.clone().requires_grad_()
        losses = SeesawLoss(4, objectness=objectness)(leaf, labels)
        found.append((losses, torch.autograd.grad(sum(losses.values()), leaf)[0]))
    assert_close(*found)
