"""The small steps of the winning LVIS 2020 entry through train_net.py: train, resume, evaluate."""

from types import SimpleNamespace

import pytest
from detectron2.config import LazyConfig

from d2_seesaw.engine.shrink import shrink
from tests.support.configs import LEAVES, QUICKSTART, changed, read

STEPS = [path for path in LEAVES if path.parent.name == "challenge"]
STEP_9 = "configs/quickstart/challenge.py"
TINY = [
    "model.proposal_generator.post_nms_topk=[40,20]",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=2",
]
DUAL = {"step10_dual_head", "step11_tta"}  # start from step 9
IN_EVERY_RUN = "step09_seesaw"  # has every trained part but the dual head


def runs(path):
    """Mark the case as slow, except for one step."""
    return pytest.param(path, marks=() if path.stem == IN_EVERY_RUN else pytest.mark.slow)


def small(path, folder):
    """Return the path of a small version of a step."""
    if path.stem == IN_EVERY_RUN:
        return STEP_9
    config = folder / "small.yaml"
    LazyConfig.save(shrink(changed(path), read(QUICKSTART)), str(config))
    return str(config)


@pytest.fixture(scope="module")
def trained(request, train_net, tmp_path_factory):
    """Train, interrupt and resume a step; return its config, folder and both runs."""
    path, output = request.param, tmp_path_factory.mktemp(request.param.stem)
    config = small(path, output)
    options = [*TINY]
    if path.stem in DUAL:
        before = output / "before"
        train_net(before, *TINY, "train.max_iter=2", config=STEP_9)
        options += [f"train.init_checkpoint={before / 'model_final.pth'}"]
    first = train_net(output, *options, "train.max_iter=1", config=config)
    resumed = train_net(output, *options, "--resume", "train.max_iter=2", config=config)
    return SimpleNamespace(config=config, output=output, first=first, resumed=resumed)


def name(path):
    return path.stem


@pytest.mark.slow
@pytest.mark.parametrize("trained", map(runs, STEPS), ids=name, indirect=True)
def test_trains_resumes_and_evaluates(trained):
    for run in (trained.first, trained.resumed):
        assert [m for m in run.metrics if "segm/AP" in m]


@pytest.mark.slow
@pytest.mark.parametrize("trained", STEPS, ids=name, indirect=True)
def test_evaluating_again_gives_the_same_table(trained, train_net, tmp_path, printed_table):
    checkpoint = f"train.init_checkpoint={trained.output / 'model_final.pth'}"
    again = train_net(tmp_path, *TINY, "--eval-only", checkpoint, config=trained.config)
    assert printed_table(again.text) == printed_table(trained.resumed.text)
