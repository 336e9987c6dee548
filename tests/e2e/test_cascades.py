"""The cascade and HTC-Lite of the quickstart through train_net.py: short real trainings."""

import pytest

# tests/e2e/test_challenge.py trains an HTC-Lite cascade by default.
pytestmark = pytest.mark.slow

LOSSES = {
    f"loss_{n}_stage{k}" for n in ("cls_classes", "cls_objectness", "box_reg") for k in range(3)
}
RUN = ["train.max_iter=3", "lr_multiplier.warmup_iters=1"]


def losses_and_accuracies(run):
    return set().union(*run.metrics)


def test_the_cascade_trains_and_evaluates(train_net, tmp_path):
    run = train_net(tmp_path, *RUN, config="configs/quickstart/cascade.py")
    expected = LOSSES | {f"loss_mask_stage{k}" for k in range(3)}
    expected |= {"stage2/fast_rcnn/cls_accuracy", "stage2/mask_rcnn/accuracy"}
    assert expected | {"segm/AP", "bbox/AP"} <= losses_and_accuracies(run)


FEDERATED = [
    "model._target_=d2_seesaw.modeling.FederatedRCNN",
    "model.roi_heads.context_encoder.federated=True",
    "model.roi_heads.context_encoder.masked_mean=True",
    "model.roi_heads.mask_rois=refined",
]


@pytest.mark.parametrize(
    "options",
    [pytest.param([], id="default"), pytest.param(FEDERATED, id="options")],
)
def test_htc_lite_trains_and_evaluates(train_net, tmp_path, options):
    run = train_net(tmp_path, *RUN, *options, config="configs/quickstart/htc_lite.py")
    expected = LOSSES | {"loss_mask", "loss_context", "segm/AP", "bbox/AP"}
    assert expected <= losses_and_accuracies(run)
