"""The quickstart with other classification losses through train_net.py: short real trainings."""

import pytest
import torch

pytestmark = pytest.mark.slow

RUN = ["train.max_iter=3", "lr_multiplier.warmup_iters=1"]
SEESAW = {"loss_cls_classes", "loss_cls_objectness"}


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("federated", {"loss_cls"}),
        ("equalization_v2", {"loss_cls"}),
        ("ecm", {"loss_cls"}),
        ("federated_seesaw", SEESAW),
    ],
)
def test_the_loss_trains_and_evaluates(train_net, tmp_path, name, losses):
    run = train_net(tmp_path, *RUN, config=f"configs/quickstart/losses/{name}.py")
    found = set().union(*run.metrics)
    assert losses | {"loss_box_reg", "fast_rcnn/cls_accuracy", "segm/AP", "bbox/AP"} <= found
    assert all(
        map(torch.isfinite, (torch.tensor(m[x]) for m in run.metrics for x in losses & set(m)))
    )
