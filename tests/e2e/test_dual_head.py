"""A dual head through train_net.py: from the previous step, resumed, evaluated, augmented."""

import pytest
import torch
from detectron2.config import LazyConfig

from d2_seesaw.engine import load_config


def dual_quickstart(path):
    cfg = load_config("configs/quickstart/seesaw.py")
    dual = LazyConfig.load("configs/common/heads/dual.py")
    heads = cfg.model.roi_heads
    cfg.model.update(dual.model)
    heads.box_head.update(dual.box_head)
    heads.box_predictor.update(dual.box_predictor)
    heads.box_predictor.update(
        new_cls_score=heads.box_predictor.cls_score, new_cls_loss=heads.box_predictor.cls_loss
    )
    LazyConfig.save(cfg, str(path))
    return str(path)


def state(path):
    return torch.load(path)["model"]


@pytest.mark.slow
def test_a_dual_head_extends_a_training_without_changing_it(train_net, printed_table, tmp_path):
    config = dual_quickstart(tmp_path / "dual.yaml")
    short = ["lr_multiplier.warmup_iters=1", "train.checkpointer.period=2"]
    before, after = tmp_path / "before", tmp_path / "after"
    train_net(before, "train.max_iter=3", *short)
    start = f"train.init_checkpoint={before / 'model_final.pth'}"
    refused = train_net(after, "train.max_iter=4", *short, config=config, fails=True)
    assert "extends a trained model" in refused.text

    run = train_net(after, "train.max_iter=4", *short, start, config=config)
    losses = {name for name in set().union(*run.metrics) if name.startswith("loss")}
    assert losses == {"loss_cls_classes_new", "loss_cls_objectness_new"}
    (after / "last_checkpoint").write_text("model_0000001.pth")
    whole = state(after / "model_final.pth")
    train_net(after, "--resume", "train.max_iter=4", *short, start, config=config)
    resumed = state(after / "model_final.pth")
    old = state(before / "model_final.pth")
    assert old.keys() < whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        if name in old:
            assert torch.equal(tensor, old[name]), name
    counts = "roi_heads.box_predictor.new.cls_loss.class_counts"
    assert resumed[counts].sum() > state(after / "model_0000001.pth")[counts].sum() > 0

    trained = f"train.init_checkpoint={after / 'model_final.pth'}"
    again = train_net(tmp_path / "eval", "--eval-only", trained, config=config)
    views = ["--tta", "tta.scales=[[144,144]]", "tta.flip=False"]
    viewed = train_net(tmp_path / "tta", "--eval-only", *views, trained, config=config)
    assert printed_table(viewed.text) == printed_table(again.text)
    refused = train_net(tmp_path / "no", "--eval-only", start, config=config, fails=True)
    assert f"{counts}: missing in the checkpoint" in refused.text
