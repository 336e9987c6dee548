"""The small steps of the winning LVIS 2020 entry through train_net.py: train, resume, evaluate."""

from pathlib import Path

import pytest

STEPS = sorted(Path("configs/challenge_small").glob("*.py"))
TINY = [
    "model.proposal_generator.post_nms_topk=[40,20]",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=2",
]
DUAL = {"step10_dual_head", "step11_tta"}  # start from step 9
IN_EVERY_RUN = "step09_seesaw"  # with everything that is trained but the dual head


def runs(path):
    """A case that is slow but for one step."""
    return pytest.param(path, marks=() if path.stem == IN_EVERY_RUN else pytest.mark.slow)


@pytest.mark.parametrize("path", map(runs, STEPS), ids=lambda p: p.stem)
def test_trains_resumes_and_evaluates(path, request, train_net, tmp_path, printed_table):
    config = str(path)
    options = [*TINY]
    if path.stem in DUAL:
        before = tmp_path / "before"
        train_net(before, *TINY, "train.max_iter=2", config=str(STEPS[9]))
        options += [f"train.init_checkpoint={before / 'model_final.pth'}"]
    first = train_net(tmp_path, *options, "train.max_iter=1", config=config)
    resumed = train_net(tmp_path, *options, "--resume", "train.max_iter=2", config=config)
    for run in (first, resumed):
        assert [m for m in run.metrics if "segm/AP" in m]
    if not request.config.getoption("--runslow"):
        return  # what follows costs a third of the time, and other models are evaluated again, too
    checkpoint = f"train.init_checkpoint={tmp_path / 'model_final.pth'}"
    again = train_net(tmp_path / "again", *TINY, "--eval-only", checkpoint, config=config)
    assert printed_table(again.text) == printed_table(resumed.text)
