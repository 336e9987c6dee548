import math

import pytest

from d2_seesaw.engine import (
    cosine_with_warmup,
    load_config,
    multi_step_with_warmup,
    polynomial_with_warmup,
)
from d2_seesaw.engine.schedule import format_changes, scale_to_world_size

STEPS = 2400


def multiplier_at(scheduler, step):
    return scheduler(step / STEPS)


def test_decays_at_milestones_in_any_unit():
    for milestones in ([16, 22, 24], [1600, 2200, 2400]):
        scheduler = multi_step_with_warmup(milestones=milestones, max_iter=STEPS)
        values = [multiplier_at(scheduler, s) for s in (1599, 1600, 2199, 2200, 2399)]
        assert values == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_warms_up_linearly_over_the_given_steps():
    scheduler = multi_step_with_warmup(milestones=[16, 22, 24], max_iter=STEPS)
    for step in (0, 100, 499):
        expected = 1e-3 + (1 - 1e-3) * step / 500
        assert multiplier_at(scheduler, step) == pytest.approx(expected)
    assert multiplier_at(scheduler, 500) == pytest.approx(1)


def test_cosine_follows_its_formula_after_the_warm_up():
    scheduler = cosine_with_warmup(max_iter=STEPS, warmup_iters=100)
    for step in (100, 1200, 2399):
        expected = 0.5 * (1 + math.cos(math.pi * step / STEPS))
        assert multiplier_at(scheduler, step) == pytest.approx(expected)


def test_polynomial_follows_its_formula_after_the_warm_up():
    scheduler = polynomial_with_warmup(max_iter=STEPS, power=0.9, warmup_iters=100)
    assert multiplier_at(scheduler, 0) == pytest.approx(1e-3)
    for step in (100, 1200, 2399):
        assert multiplier_at(scheduler, step) == pytest.approx((1 - step / STEPS) ** 0.9)


def test_a_warm_up_longer_than_training_is_shortened():
    assert cosine_with_warmup(max_iter=10, warmup_iters=100)(0.5) < 1


@pytest.mark.parametrize("max_iter", [None, 0, -3])
def test_a_missing_length_is_an_error(max_iter):
    with pytest.raises(ValueError, match=f"max_iter must be at least 1 .*, got {max_iter}"):
        cosine_with_warmup(max_iter=max_iter)


@pytest.mark.parametrize("milestones", [[22, 16, 24], [16, 16, 24]])
def test_milestones_that_do_not_increase_are_reported(milestones):
    with pytest.raises(ValueError, match=r"milestones must increase, got \["):
        multi_step_with_warmup(milestones=milestones, max_iter=STEPS)


# --- scaling ---


def config(*overrides):
    return load_config("configs/lvis_v1_seesaw.py", ["train.max_iter=80000", *overrides])


def test_two_gpus_instead_of_eight_quarter_batch_and_rate_and_quadruple_steps():
    cfg = config("train.eval_period=100")
    changes = scale_to_world_size(cfg, 2)
    assert cfg.dataloader.train.total_batch_size == 4
    assert isinstance(cfg.dataloader.train.total_batch_size, int)
    assert cfg.optimizer.lr == pytest.approx(0.005)
    assert cfg.train.max_iter == 320000
    assert cfg.train.eval_period == 400
    assert cfg.train.checkpointer.period == 20000
    assert cfg.lr_multiplier.warmup_iters == 4 * 499
    assert ("optimizer.lr", 0.02, 0.005) in changes
    assert len(changes) == 6


def test_lengths_in_epochs_and_disabled_periods_are_not_scaled():
    cfg = config("train.max_iter=null", "train.eval_period=0")
    scale_to_world_size(cfg, 16)
    assert cfg.train.max_iter is None
    assert cfg.train.epochs == 24
    assert cfg.train.eval_period == 0
    assert cfg.dataloader.train.total_batch_size == 32


def test_a_period_of_one_step_stays_one_step_on_many_gpus():
    cfg = config("train.eval_period=1")
    scale_to_world_size(cfg, 64)
    assert cfg.train.eval_period == 1


def test_the_reference_world_size_changes_nothing():
    cfg = config()
    assert scale_to_world_size(cfg, 8) == []
    assert cfg.optimizer.lr == 0.02


def test_a_batch_that_cannot_be_split_is_reported():
    with pytest.raises(ValueError, match="a total batch of 16 for 32 GPUs"):
        scale_to_world_size(config("train.reference_world_size=32"), 3)
    with pytest.raises(
        ValueError, match=r"reference_world_size must be a whole number of at least 1, got 0"
    ):
        scale_to_world_size(config("train.reference_world_size=0"), 3)


def test_the_table_shows_values_before_and_after():
    table = format_changes([("optimizer.lr", 0.02, 0.005)], 8, 2)
    assert "from 8 to 2 GPUs" in table
    assert "0.02 -> 0.005" in table
    assert "nothing scaled" in format_changes([], 8, 8)
