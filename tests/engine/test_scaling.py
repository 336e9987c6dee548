import pytest

from d2_seesaw.engine import load_config
from d2_seesaw.engine.schedule import format_changes, scale_to_world_size


def config(*overrides):
    return load_config("configs/lvis_v1_seesaw.py", ["train.max_iter=80000", *overrides])


def test_two_gpus_instead_of_eight_take_a_quarter_of_batch_and_rate_and_four_times_the_steps():
    cfg = config("train.eval_period=100")
    changes = scale_to_world_size(cfg, 2)
    assert cfg.dataloader.train.total_batch_size == 4
    assert isinstance(cfg.dataloader.train.total_batch_size, int)
    assert cfg.optimizer.lr == pytest.approx(0.005)
    assert cfg.train.max_iter == 320000
    assert cfg.train.eval_period == 400
    assert cfg.train.checkpointer.period == 20000
    assert cfg.lr_multiplier.warmup_iters == 2000
    assert ("optimizer.lr", 0.02, 0.005) in changes
    assert len(changes) == 6


def test_lengths_in_epochs_and_periods_of_never_stay():
    cfg = config("train.max_iter=null", "train.eval_period=0")
    scale_to_world_size(cfg, 16)
    assert cfg.train.max_iter is None
    assert cfg.train.epochs == 24
    assert cfg.train.eval_period == 0
    assert cfg.dataloader.train.total_batch_size == 32


def test_the_reference_itself_changes_nothing():
    cfg = config()
    assert scale_to_world_size(cfg, 8) == []
    assert cfg.optimizer.lr == 0.02


def test_a_batch_that_cannot_be_split_is_named():
    with pytest.raises(ValueError, match="a total batch of 16 for 32 GPUs"):
        scale_to_world_size(config("train.reference_world_size=32"), 3)
    with pytest.raises(ValueError, match=r"reference_world_size must be at least 1, got 0"):
        scale_to_world_size(config("train.reference_world_size=0"), 3)


def test_the_table_shows_values_before_and_after():
    table = format_changes([("optimizer.lr", 0.02, 0.005)], 8, 2)
    assert "from 8 to 2 GPUs" in table
    assert "0.02 -> 0.005" in table
    assert "nothing scaled" in format_changes([], 8, 8)
