"""The cascades of the quickstart through train_net.py: short real trainings."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_seesaw.data import register_label_maps

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


def test_htc_trains_and_evaluates(train_net, tmp_path):
    run = train_net(tmp_path, *RUN, config="configs/quickstart/htc.py")
    expected = LOSSES | {f"loss_mask_stage{k}" for k in range(3)}
    expected |= {f"stage{k}/roi_head/num_fg_samples" for k in range(1, 6)}
    assert expected | {"segm/AP", "bbox/AP"} <= losses_and_accuracies(run)


WITH_MAPS = """
from detectron2.config import LazyConfig

_cfg = LazyConfig.load("configs/quickstart/htc.py")
dataloader, model, optimizer, train, tta = (
    _cfg[key] for key in ("dataloader", "model", "optimizer", "train", "tta")
)
lr_multiplier = _cfg.lr_multiplier
_add = LazyConfig.load("configs/common/models/htc_r50_fpn.py", "add_semantic_branch")
_add(model, num_classes=3)
dataloader.train.dataset.names = "tests_label_maps"
"""


def test_htc_trains_with_label_maps(train_net, datasets, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    images = [p for p in (datasets / "quickstart").rglob("*.*") if p.suffix in (".jpg", ".png")]
    for path in images:
        with Image.open(path) as image:
            bright = np.array(image.convert("L")) > 100
        Image.fromarray(bright.astype(np.uint8)).save(maps / f"{path.stem}.png")
    register_label_maps("tests_label_maps", "quickstart_train", maps)
    config = tmp_path / "with_maps.py"
    config.write_text(WITH_MAPS)
    try:
        run = train_net(tmp_path / "run", *RUN, config=str(config))
    finally:
        DatasetCatalog.remove("tests_label_maps")
        MetadataCatalog.remove("tests_label_maps")
    assert {"loss_semantic", "loss_mask_stage2", "segm/AP"} <= losses_and_accuracies(run)
